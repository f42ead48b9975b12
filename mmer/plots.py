"""Figures of an explanation. Orange with a solid outline speaks for the emotion, purple with a dashed one against it.

The two colours are told apart with every kind of colour blindness; outlines, signs and numbers do without colour. The
background is transparent and the ink a grey that is read on white and on black, so one picture serves both themes.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D
from PIL import Image

from mmer.config import VoiceConfig
from mmer.explanation import Explanation
from mmer.features import Features
from mmer.labels import SIGNS
from mmer.messages import Say, marked, plain
from mmer.numerals import seconds, signed
from mmer.prosody import PITCH_HZ, Prosody
from mmer.voice_map import mel_centres, voice_edges

INK = "#7b7b7b"  # 4.2 to 1 on white, 4.5 to 1 on #0b0f19
# Of PuOr, but the purple lighter: its own has 1.8 to 1 on #0b0f19, this one 4.2.
FOR, AGAINST = (0.79, 0.43, 0.05, 1.0), (0.51, 0.39, 0.79, 1.0)
_DPI = 160
_STYLE: dict[str, Any] = {"color": INK, "fontsize": 8}


def face(
    features: Features,
    explanation: Explanation,
    frames: Mapping[int, np.ndarray] | None = None,
    say: Say = plain,
) -> Image.Image | None:
    """Return the frames that count most, each beside its map, above the score of every moment; None without a face.

    Args:
        frames: pictures (H, W, 3) uint8 of some of these frames, by index: the map is laid over the face in them; over
            the crop that the model saw where there is none.
        say: says the texts beside it in some language.
    """
    if explanation.face_map is None or features.face is None:
        return None
    face_map, crops = explanation.face_map.numpy(), features.face.crops[:, 0].numpy()
    times, scores = (np.array(column) for column in zip(*explanation.face_moments, strict=True))
    key = np.flatnonzero(~np.isnan(face_map).any((1, 2))).tolist()
    maps = {i: _smooth(face_map[i], 2, 2) for i in key}
    limit = _limit(np.stack(list(maps.values())))

    # Squares of 0.96 inches side by side, a crop and its map each, under 0.24 of titles; places are fractions of the
    # figure.
    top = 1.35 if len(times) == 1 else 2.75
    figure = _figure(6.4, top + 0.1, layout=None)
    for column, i in enumerate(key):
        for j in range(2):
            place = (0.02 + column * 0.33 + j * 0.155, (top - 1.2) / (top + 0.1), 0.15, 0.96 / (top + 0.1))
            axes = figure.add_axes(place)
            alignment = features.face.alignment
            if frames and i in frames and alignment is not None:
                _over_picture(axes, frames[i], alignment[i].numpy(), maps[i], limit if j else None)
            else:
                axes.imshow(crops[i], cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
                if j:
                    _overlay(axes, maps[i], limit)
            axes.set_axis_off()
            axes.set_title(signed(scores[i]) if j else seconds(times[i]), fontsize=8, color=INK, pad=3)
    if len(times) > 1:
        axes = figure.add_axes((0.09, 0.44 / (top + 0.1), 0.89, 0.8 / (top + 0.1)))
        width = 0.7 * float(np.diff(times).min())
        bars = axes.bar(times, scores, width, color=[FOR if s > 0 else AGAINST for s in scores])
        for i in key:
            bars[i].set(edgecolor=INK, linewidth=1.8)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.margins(x=0.02, y=0.15)
        axes.set_xlabel(say(marked("seconds; the outlined bars are the frames above")), **_STYLE)
        axes.set_ylabel(say(marked("score")), **_STYLE)
        _plain(axes)
    _legend(figure, explanation.target, say)
    return _drawn(figure)


def voice(
    features: Features, explanation: Explanation, config: VoiceConfig | None = None, say: Say = plain
) -> Image.Image | None:
    """Return the spectrogram under its map, the scores of the strongest cells written in; None without a voice.

    Args:
        say: says the texts beside it in some language.
    """
    if explanation.voice_map is None or features.sound is None:
        return None
    config = config or VoiceConfig()
    mel, shares = features.sound.mel.numpy(), explanation.voice_map.numpy()
    bands = explanation.voice_bands
    start, end = bands[0]["start_s"], max(b["end_s"] for b in bands)
    centres = mel_centres(config).numpy()

    def bin_of(hz: float) -> float:
        return float(np.interp(hz, centres, np.arange(len(centres)))) + (
            0.5 if hz >= centres[-1] else -0.5 if hz <= centres[0] else 0
        )

    contours = explanation.prosody
    figure = _figure(6.4, 2.8 if contours is None else 4.2)
    axes, *under = figure.subplots(3, 1, sharex=True, height_ratios=(4, 1, 1)) if contours else (figure.add_subplot(),)
    extent = (start, end, -0.5, len(centres) - 0.5)
    axes.imshow(mel.T, cmap="gray", origin="lower", aspect="auto", extent=extent, vmin=-2.5, vmax=3.5)
    _overlay(axes, _smooth(shares, 6, 2).T, extent=extent)
    edges, _ = voice_edges(config)
    for _low, high in pairwise(edges):
        axes.axhline(bin_of(high), color="white", linewidth=0.4, alpha=0.6)
    for cell in sorted(bands, key=lambda b: -abs(b["score"]))[:6]:
        x, y = cell["start_s"], bin_of(cell["low_hz"])
        w, h = cell["end_s"] - x, bin_of(cell["high_hz"]) - y
        style = "solid" if cell["score"] > 0 else "dashed"
        axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor="white", linewidth=1, linestyle=style))
        shade = {"facecolor": "#000000a0", "edgecolor": "none", "pad": 1}
        axes.text(
            x + w / 2,
            y + h / 2,
            signed(cell["score"]),
            color="white",
            fontsize=6.5,
            ha="center",
            va="center",
            bbox=shade,
        )
    axes.set_xlim(start, end)
    axes.set_yticks([bin_of(hz) for hz in edges], [f"{hz:g}" for hz in edges])
    axes.set_ylabel("Hz", **_STYLE)
    _plain(axes)
    if contours is not None:
        _contours(under, contours, say)
    (under[-1] if under else axes).set_xlabel(say(marked("seconds")), **_STYLE)
    _legend(figure, explanation.target, say)
    return _drawn(figure)


def _contours(axes: Sequence[Axes], contours: Prosody, say: Say) -> None:
    """Draw loudness and pitch over time, pauses as grey."""
    loudness, pitch = axes
    times = contours.times_s.numpy()
    loudness.plot(times, contours.loudness_db.clamp_min(-60), color=INK, linewidth=1)
    loudness.set_ylim(-60, 3)
    loudness.set_ylabel("dB", **_STYLE)
    if not bool(contours.pitch_hz.isnan().all()):
        pitch.plot(times, contours.pitch_hz, ".", color=INK, markersize=2)
    pitch.set_ylim(PITCH_HZ)
    pitch.set_yscale("log")
    pitch.set_yticks([100, 200, 400], ["100", "200", "400"])
    pitch.minorticks_off()
    pitch.set_ylabel(say(marked("pitch, Hz")), **_STYLE)
    for axis in axes:
        for start, end in contours.pauses:
            axis.axvspan(start, end, color=INK, alpha=0.15, linewidth=0)
        _plain(axis)


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout=layout)
    figure.patch.set_alpha(0)
    return figure


def _legend(figure: Figure, target: str, say: Say) -> None:
    lines = [Line2D([], [], color=FOR, linestyle="solid"), Line2D([], [], color=AGAINST, linestyle="dashed")]
    emotion = f"{SIGNS[target].symbol} {say(target)}"
    named = [say(marked("speaks for {emotion}"), emotion=emotion), say(marked("against {emotion}"), emotion=emotion)]
    style: dict[str, Any] = {"ncols": 2, "frameon": False, "fontsize": 8, "labelcolor": INK, "borderaxespad": 0.1}
    figure.legend(lines, named, loc="outside upper left" if figure.get_layout_engine() else "upper left", **style)


def _plain(axes) -> None:
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=7)
    axes.spines[:].set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)


def _smooth(values: np.ndarray, *sigmas: float) -> np.ndarray:
    """Return a map (H, W) blurred for the eye: single pixels of integrated gradients mean little."""
    kernels = []
    for n, sigma in zip(values.shape, sigmas, strict=True):
        at = np.arange(n)
        kernel = np.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
        kernels.append(kernel / kernel.sum(1, keepdims=True))
    return kernels[0] @ values @ kernels[1].T


def _limit(values: np.ndarray) -> float:
    return max(float(np.quantile(np.abs(values), 0.995)), 1e-9)


def _overlay(axes, values: np.ndarray, limit: float | None = None, extent=None) -> None:
    """Lay a signed map over a picture: the stronger the less transparent, outlined at half of the strongest."""
    limit = limit or _limit(values)
    strength = np.clip(values / limit, -1, 1)
    colours = np.where((strength > 0)[..., None], FOR, AGAINST)
    colours[..., 3] = np.abs(strength) * 0.85
    lie = {"origin": "lower", "aspect": "auto", "extent": extent} if extent else {}
    axes.imshow(colours, interpolation="bilinear", **lie)
    for level, style, colour in ((-0.5, "dashed", AGAINST), (0.5, "solid", FOR)):
        if strength.min() < level < strength.max():
            axes.contour(
                strength,
                [level],
                colors=[colour],
                linestyles=style,
                linewidths=0.9,
                origin=lie.get("origin"),
                extent=extent,
            )


def _over_picture(axes, picture: np.ndarray, alignment: np.ndarray, face_map: np.ndarray, limit: float | None) -> None:
    """Show the face in its picture and, with a limit, its map turned and moved back to where the crop was cut from."""
    H, W = picture.shape[:2]
    side = len(face_map)
    turn, shift = complex(*alignment[:2]), complex(*alignment[2:])

    def back(points: np.ndarray) -> np.ndarray:
        return (points - shift) / turn

    corners = back(side * np.array([0, 1, 1j, 1 + 1j]))
    around = 0.25 * side / abs(turn)
    axes.imshow(picture, extent=(0, W, H, 0))
    if limit is not None:
        x, y, zero = (complex(back(np.array(p))) for p in (1, 1j, 0))
        columns = np.array([[x.real - zero.real, y.real - zero.real], [x.imag - zero.imag, y.imag - zero.imag]])
        to_picture = Affine2D(np.block([[columns, np.array([[zero.real], [zero.imag]])], [np.array([[0, 0, 1]])]]))
        strength = np.clip(face_map / limit, -1, 1)
        colours = np.where((strength > 0)[..., None], FOR, AGAINST)
        colours[..., 3] = np.abs(strength) * 0.85
        place = {"extent": (0, side, side, 0), "transform": to_picture + axes.transData}
        axes.imshow(colours, interpolation="bilinear", **place)
        middles = np.arange(side) + 0.5
        at = back(middles[None, :] + 1j * middles[:, None])
        for level, style, colour in ((-0.5, "dashed", AGAINST), (0.5, "solid", FOR)):
            if strength.min() < level < strength.max():
                axes.contour(at.real, at.imag, strength, [level], colors=[colour], linestyles=style, linewidths=0.9)
    axes.set_xlim(max(corners.real.min() - around, 0), min(corners.real.max() + around, W))
    axes.set_ylim(min(corners.imag.max() + around, H), max(corners.imag.min() - around, 0))


def _drawn(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()).copy())
