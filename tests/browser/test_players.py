"""Chromium plays what Label and Review send, whatever the recording was."""

import base64

from annotations.store import Store
from mmer.ui.playable import Player
from tests.test_playable import DEAD, registered, write

_LOADED = """async (element) => {
  const until = performance.now() + 20000;
  while (element.readyState < 2 && !element.error && performance.now() < until)
    await new Promise((r) => setTimeout(r, 50));
  return [element.error && element.error.message, element.duration, element.videoWidth ?? 0];
}"""


def test_players_were_dead_in_chromium(browser, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'mmer.db'}", tmp_path / "media", tmp_path / "features")
    player, page = Player(store), browser.new_page()
    for name, (video, _) in DEAD.items():
        path = write(tmp_path / name, *DEAD[name])
        found = player.of(path, registered(store, path))
        tag = found.type.split("/")[0]
        data = base64.b64encode(found.path.read_bytes()).decode()
        page.set_content(f'<{tag} id="clip" preload="auto" src="data:{found.type};base64,{data}"></{tag}>')
        error, duration_s, width = page.eval_on_selector("#clip", _LOADED)
        assert error is None, (name, error)
        assert 0.9 < duration_s < 1.3, name
        assert width == (320 if video else 0), name
    page.close()
    store.engine.dispose()
