"""What every room uses: words on the screen, locks, lazy imports.

May import nothing of ours but itself.
"""
