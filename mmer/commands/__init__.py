"""The longer commands of `python -m mmer`, one module each; their options stand in `mmer/__main__.py`."""
