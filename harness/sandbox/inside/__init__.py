"""Files that are visible inside a jail. They run as plain scripts there and import the standard library and
each other only.
"""
