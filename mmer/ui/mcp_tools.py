"""What programs that speak the Model Context Protocol may call: `analyse` and `explain`, as the API describes them."""

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.mcp import GradioMCPServer

from mmer.errors import MmerError

TOOLS = ("analyse", "explain")  # gradio would offer every call of the page


class Tools(GradioMCPServer):
    """The endpoint `/gradio_api/mcp`; a call of it is a call of the page, through the door and the queue.

    Raises:
        MmerError: `mcp_missing`.
    """

    def __init__(self, page: gr.Blocks):
        try:
            super().__init__(page)
        except ImportError as error:
            raise MmerError("mcp_missing", "MMER_MCP needs the package mcp: `pip install '.[mcp]'`") from error

    def get_tool_to_endpoint(self) -> dict[str, str]:
        return {name: f"/{name}" for name in TOOLS}

    def warn_about_state_inputs(self) -> None:
        """Say nothing: without a session's result, `explain` takes the clip itself."""

    @staticmethod
    def pop_returned_state(components: Sequence[Any], data: Any) -> list[Any]:
        """Return the answer alone; gradio's own fails where a call returns a session's state beside it."""
        answer = data[0]
        return [answer[0] if isinstance(answer, list | tuple) else answer]

    def postprocess_output_data(self, data: Any, root_url: str) -> list[Any]:
        """Return the answer as JSON; gradio would write it as Python does."""
        return [self.types.TextContent(type="text", text=json.dumps(data[0], ensure_ascii=False))]
