"""The toolkit in somebody's repository: what is installed, edits of their files, all or nothing.

May import `settings` and `common`.
"""
