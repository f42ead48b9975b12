"""Many threads on one model: every answer and every explanation is what it is alone."""

from tests.load.threads import main


def test_explanations_and_predictions_at_once_change_no_figure(capsys):
    assert main(["--threads", "8", "--calls", "24"]) == 0
    assert "24 calls, 0 errors, 0 changed figures" in capsys.readouterr().out
