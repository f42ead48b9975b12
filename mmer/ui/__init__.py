"""The page: the only place, beside app.py, that imports gradio."""

import os

# Read when gradio is first imported: nothing about this app or its users is sent anywhere.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
