"""What targets, outcomes, roles, queue orders and file formats there are, and a project's defaults.

Apart from the tables, so that the command line knows its choices without the seconds that SQLAlchemy takes to import.
"""

TARGETS = ("all", "face", "voice", "text")  # what a label is about
OUTCOMES = ("label", "skip", "cannot_tell", "broken")  # of an annotator's judgement
ROLES = ("viewer", "annotator", "reviewer", "admin")  # each may do what those before it may
ORDERS = ("margin", "uncertainty", "branches", "annotators", "diversity", "random")  # what a queue shows first
FORMATS = ("csv", "jsonl", "labelstudio", "hf", "elan", "webvtt")  # of files with labels

# What a clip is for, decided when it is first seen: to learn from; to measure on people who are also learned from; to
# measure on, as everything of its speaker.
SIDES = TRAIN, HELD_OUT, STRANGER = ("train", "held_out", "stranger")

PER_ITEM, GOLD_SHARE, LEASE_S = 2, 0.1, 900  # a project's defaults: annotators, share of gold items, seconds
METHODS = ("majority", "gold", "dawid_skene", "soft")  # how several annotators' labels become one distribution
