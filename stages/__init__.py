"""The pipeline: five stages, each a word that also names its params section, DVC stage, command and outputs.

prepare → sft → grpo → evaluate → report. Each file is the story of its stage; what they use is the library posttrain/.
"""
