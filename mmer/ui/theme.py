"""How the page looks: calm, light and dark, one column on a phone."""

import json
from pathlib import Path

import gradio as gr

from mmer.labels import SIGNS
from mmer.ui import language

# Fonts the reader's machine has: none is fetched from elsewhere.
_FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

THEME = gr.themes.Base(
    primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="lg", font=_FONTS, font_mono=_MONO
).set(
    body_text_color_subdued="#526077",  # 6.3 on white; of slate, gradio's own choice has 2.6
    body_text_color_subdued_dark="#a3b1c6",
    input_placeholder_color="#526077",
    input_placeholder_color_dark="#a3b1c6",
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    color_accent="*primary_700",
    block_border_width="1px",
    block_shadow="none",
    button_primary_background_fill="*primary_700",  # white on it has a contrast of 5.5
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
    button_primary_text_color="white",
    input_border_width="1px",
    checkbox_border_radius="4px",
    checkbox_border_color="*neutral_400",
    checkbox_border_color_dark="*neutral_400",
    input_background_fill="white",
    input_background_fill_dark="*neutral_900",
)


def _radio_labels(emotion: str) -> str:
    """Return what selects an emotion among radio buttons: gradio marks them by what they are called on the page."""
    called = dict.fromkeys(language.in_every(emotion.capitalize()))
    return ", ".join(f'[data-testid="{name}-radio-label"]' for name in called)


_COLOURS = {
    ground: " ".join(f"--mm-{emotion}: {getattr(sign, shade)};" for emotion, sign in SIGNS.items())
    for ground, shade in ((":root", "light"), (".dark", "dark"))
}
CSS = "".join(f"{ground} {{ {colours} }}\n" for ground, colours in _COLOURS.items())
# The same before every choice of an emotion; for the ear the word is enough.
CSS += "".join(
    f'label:is(:has(> input[name="{emotion}"]), {_radio_labels(emotion)}) > span::before '
    f'{{ content: "{sign.symbol}" / ""; color: var(--mm-{emotion}); margin-right: .45em; }}\n'
    for emotion, sign in SIGNS.items()
)
# Symbols in lists of plain text, where `page.js` finds them.
CSS += "".join(f"::highlight(mm-{emotion}) {{ color: var(--mm-{emotion}); }}\n" for emotion in SIGNS)
CSS += "\n".join(
    Path(__file__).with_name(f).read_text(encoding="utf-8") for f in ("page.css", "analyse.css", "live.css")
)
SCRIPT = f"window.mmerSigns = {json.dumps({emotion: sign.symbol for emotion, sign in SIGNS.items()})};\n"
SCRIPT += "\n".join(
    Path(__file__).with_name(f).read_text(encoding="utf-8") for f in ("page.js", "timeline.js", "live.js")
)
