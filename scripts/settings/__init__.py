"""What the user wants: the layers, their values, and the checks that need no platform.

May import `common`.
"""
