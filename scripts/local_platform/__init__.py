"""The embedded platform: the Neu.ro / Apolo API on loopback, with every job a local process.

May import nothing of ours but itself; the other rooms see of it only `client`.
"""
