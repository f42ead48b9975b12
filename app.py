"""The page in a browser: `python app.py`. A Hugging Face Space runs this file as it is."""

import argparse
import logging
import os
import signal
import sys
import threading
from dataclasses import replace

from mmer import checkpoint
from mmer.config import Paths
from mmer.errors import MmerError

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the page.")
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 for all (default: this machine only)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    # Before the imports below, whose seconds --help need not wait for.
    options: argparse.Namespace | None = parser.parse_args()
    os.umask(0o077)  # what this server writes is nobody else's
else:
    options = None
try:
    paths = Paths.from_env()
except MmerError as error:
    sys.exit(f"error: {error}")
os.environ["GRADIO_TEMP_DIR"] = str(paths.uploads)  # gradio takes note of it when it is imported
# Threads of torch that wait shall sleep: turning over, they took half of the time from a second call beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
try:
    import spaces  # lends a GPU per call on ZeroGPU; it has to be imported before torch
except ImportError:
    spaces = None

from mmer.ui import logs
from mmer.ui.lent_gpu import lender
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service
from mmer.ui.shutdown import serve_until_stopped

_FINISH_S = 300.0  # how long a call may go on after the server was asked to stop; what stops it may be less patient


if options and options.host:
    paths = replace(paths, host=options.host)
try:
    service = Service(paths, lender(spaces)) if spaces else Service(paths)
    demo = build(service)
    if spaces:
        service.warm()  # a GPU is lent to what this thread has loaded
except MmerError as error:
    sys.exit(f"error: {error}")


def warm() -> None:
    try:
        service.warm()
    except MmerError as error:  # whoever asks for an answer is told, and another checkpoint may be promoted
        logging.getLogger("mmer.server").error("nothing can be answered yet: %s", error)


warming = threading.Thread(target=warm, daemon=True)
if not spaces and options is None:
    warming.start()

if options:
    logs.set_up(paths)
    logs.tell_settings(paths, port=str(options.port or ""), checkpoint=checkpoint.promoted(paths.checkpoints))
    if not (service.closed or paths.space or paths.is_private):
        print(
            "Everybody who reaches this page may label, under any name; reviews and projects are closed to them. "
            "`python -m annotations account add NAME admin` closes the page to all without an account."
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # one that comes while it starts ends it as Ctrl-C does
    try:
        demo.launch(server_name=paths.host, server_port=options.port, prevent_thread_lock=True, **LAUNCH)
        if not spaces:
            warming.start()  # the page is there before torch and the weights are
        serve_until_stopped(demo, _FINISH_S)
    except MmerError as error:
        sys.exit(f"error: {error}")
    finally:
        service.close()
