"""Labelling sessions: `store.Store` keeps clips, predictions and labels; `python -m annotations` moves them in and out."""
