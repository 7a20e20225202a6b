"""The embedded platform: the Neu.ro / Apolo API on loopback, with every job a local process."""
