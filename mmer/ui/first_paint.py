"""What the page shows before its scripts have built it: its language, a word at once, and nothing that jumps meanwhile.

gradio builds the page in the browser, its styles last: on a busy machine everything moved several times over, layout
shifts of 0.89 in all. So it is built out of sight and shown whole.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Send

from mmer.messages import marked
from mmer.ui import language

# Built once the page knows who looks at it, or asks them to log in; after half a minute it is shown as it is.
_BUILT = "gradio-app:not(:has(#who [data-may], [type=password]))"
TITLE = marked("Emotion in face, voice and words")
_STYLE = f"""<style>
{_BUILT} > * {{ visibility: hidden; animation: mm-late 0s 30s forwards; }}
@keyframes mm-late {{ to {{ visibility: visible; }} }}
{_BUILT}::before {{ content: "%s"; position: absolute; padding: 2rem; }}
</style></head>"""


def with_first_paint(send: Send, spoken: str) -> Send:
    """Return a way out that puts the style and the language into an HTML page which goes through it whole.

    Args:
        spoken: code of the language in which whoever asks reads the page.
    """
    start: Message | None = None
    with language.speaking(spoken):
        title = language.gettext(TITLE)
        style = _STYLE % language.gettext("{title}: loading …", title=title)

    async def sent(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start" and _is_html(message):
            start = message
            return
        if start is not None and message["type"] == "http.response.body":
            body = message.get("body", b"").replace(b'lang="en"', f'lang="{spoken}"'.encode(), 1)
            body = body.replace(TITLE.encode(), title.encode())
            message = {**message, "body": body.replace(b"</head>", style.encode(), 1)}
            headers = MutableHeaders(raw=start["headers"])
            headers.add_vary_header("Accept-Language")
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
