"""The page in German: what it says, and what of it is still English."""

from playwright.sync_api import Page

from mmer.ui.language import CATALOGUES, gettext, speaking

LOCALE = {"locale": "de-DE"}
# What is written and what is read out on the page as it is seen.
_SHOWN = """() => {
  const shown = new Set();
  const tidy = (text) => text.trim().replace(/\\s+/g, " ");
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!e.closest("script, style, [lang=en]") && e.checkVisibility()) shown.add(tidy(walker.currentNode.textContent));
  }
  for (const e of document.querySelectorAll("[aria-label], [placeholder], [alt], [title]"))
    if (e.checkVisibility()) for (const name of ["aria-label", "placeholder", "alt", "title"])
      if (e.getAttribute(name)) shown.add(tidy(e.getAttribute(name)));
  return [...shown];
}"""


def in_german(message: str, /, **fields: object) -> str:
    with speaking("de"):
        return gettext(message, **fields)


def english_left(page: Page) -> set[str]:
    """Return what the page still shows of its marked English texts."""
    page_texts = CATALOGUES["de"]["page"]
    german = set(page_texts.values())
    return {text for text in page.evaluate(_SHOWN) if page_texts.get(text, text) != text and text not in german}
