"""Measuring: the clock around a decode call, its audit, the timing protocol, memory, environment and
roofline.
"""
