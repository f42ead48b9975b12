"""Clients of a page that is served: as people use them, but more patient than httpx, whose usual limit of 5 s a machine
that runs other tests too may miss."""

from functools import partial

import httpx
from gradio_client import Client

_PATIENT_S = 60
http_get, http_post = (partial(ask, timeout=_PATIENT_S) for ask in (httpx.get, httpx.post))


def client_of(url: str, **options) -> Client:
    """Return a client of the page at an address."""
    return Client(url, verbose=False, httpx_kwargs={"timeout": _PATIENT_S}, **options)
