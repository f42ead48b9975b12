"""Annotation database: `store.Store` keeps clips, predictions and labels; `python -m annotations` runs its commands."""
