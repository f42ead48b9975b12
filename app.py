"""The page in a browser: `python app.py`. A Hugging Face Space runs this file as it is."""

import argparse
import logging
import sys
import threading

try:
    import spaces  # lends a GPU per call on ZeroGPU; it has to be imported before torch
except ImportError:
    spaces = None

from mmer.config import Paths
from mmer.errors import MmerError
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service


def _on_lent_gpu(call):
    """Run a call where ZeroGPU lends a GPU: in another process, which cannot be asked to stop."""
    lent = spaces.GPU(duration=120)(call)
    return lambda *args, should_stop=None, **options: lent(*args, **options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve the page.")
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 for all (default: this machine only)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    return parser.parse_args()


options = _options() if __name__ == "__main__" else None
try:
    service = Service(Paths.from_env(), _on_lent_gpu) if spaces else Service(Paths.from_env())
except MmerError as error:
    sys.exit(f"error: {error}")
demo = build(service)
threading.Thread(target=service.predictor.warm, daemon=True).start()  # the page is there before the weights are

if options:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    demo.launch(server_name=options.host, server_port=options.port, **LAUNCH)
