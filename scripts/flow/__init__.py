"""The workspace's flow on a platform: login, neuro-flow, submission, the server's job, tasks on its store.

May import `settings`, `local_platform.client` and `common`.
"""
