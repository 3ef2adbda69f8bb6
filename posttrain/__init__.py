"""The library of posttrain: what its five stages (stages/) are made of.

Importing this package imports nothing else: lighteval's environment and the flows rely on that.
"""
