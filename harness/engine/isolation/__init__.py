"""Behind glass: a decoder in a jail of its own that sends requests, and the judge that owns model, canvas and
clock and answers them.
"""
