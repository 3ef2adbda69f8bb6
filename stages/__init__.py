"""The work of posttrain: five stages, each a word that also names its params section, DVC stage and outputs.

Importing this package imports nothing else: the lighteval environment and the flows rely on that.
"""
