"""Decoding: forward requests and batches, canvas and rows, key/value stores, the meter, and the contract of a
decoder.
"""
