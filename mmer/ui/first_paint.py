"""What the page shows before its scripts have built it: a word at once, and nothing that jumps while it is built.

gradio builds the page in the browser, its styles last: on a busy machine everything moved several times over, layout
shifts of 0.89 in all. So it is built out of sight and shown whole.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Send

# Built once the page knows who looks at it, or asks them to log in; after half a minute it is shown as it is.
_BUILT = "gradio-app:not(:has(#who [data-may], [type=password]))"
_STYLE = f"""<style>
{_BUILT} > * {{ visibility: hidden; animation: mm-late 0s 30s forwards; }}
@keyframes mm-late {{ to {{ visibility: visible; }} }}
{_BUILT}::before {{ content: "Emotion in face, voice and words: loading …"; position: absolute; padding: 2rem; }}
</style></head>""".encode()


def with_first_paint(send: Send) -> Send:
    """Return a way out that puts the style into an HTML page which goes through it whole."""
    start: Message | None = None

    async def sent(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start" and _is_html(message):
            start = message
            return
        if start is not None and message["type"] == "http.response.body":
            message = {**message, "body": message.get("body", b"").replace(b"</head>", _STYLE, 1)}
            headers = MutableHeaders(raw=start["headers"])
            headers["content-length"] = str(len(message["body"]))
            if message.get("more_body"):
                del headers["content-length"]
            await send(start)
            start = None
        await send(message)

    return sent


def _is_html(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return headers.get("content-type", "").startswith("text/html") and "content-encoding" not in headers
