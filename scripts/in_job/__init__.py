"""What runs inside the job: standard library only, Python 3.8 and newer.

May import nothing of ours but itself.
"""
