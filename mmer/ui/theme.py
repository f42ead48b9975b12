"""How the page looks: calm, light and dark, one column on a phone."""

import gradio as gr

# Fonts the reader's machine has: none is fetched from elsewhere.
_FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

THEME = gr.themes.Base(
    primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="lg", font=_FONTS, font_mono=_MONO
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    color_accent="*primary_700",
    block_border_width="1px",
    block_shadow="none",
    button_primary_background_fill="*primary_700",  # white on it has a contrast of 5.5
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
    button_primary_text_color="white",
    input_border_width="1px",
    checkbox_border_radius="4px",
    checkbox_border_color="*neutral_400",
    checkbox_border_color_dark="*neutral_400",
    input_background_fill="white",
    input_background_fill_dark="*neutral_900",
)

# Orange for, purple against, as in the maps: told apart with any colour vision, and a sign and a word stand beside them.
CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
:root { --mm-accent: #0f766e; --mm-for: #b35806; --mm-against: #6a3d9a; --mm-track: #e2e8f0; --mm-quiet: #526077; --mm-bad: #b91c1c; }
.dark { --mm-accent: #5eead4; --mm-for: #f6a04d; --mm-against: #b8a5e3; --mm-track: #334155; --mm-quiet: #a3b1c6; --mm-bad: #fca5a5; --color-accent: #5eead4; }

#video video, #picture img { max-height: 300px; object-fit: contain; }
.gradio-container .html-container { padding: 0; }
:root:not(:has(#status .mm-busy)) #stop, :root:not(:has(#doing .mm-busy)) #halt { display: none; }
:is(#status, #word-times, #doing, #why, #saved, #label-status, #label-told, #label-progress):not(:has(.prose > *)) { display: none; }
.mm-head h1 { font-size: 1.5rem; margin: .4rem 0 .2rem; }
.mm-head p { margin: 0; color: var(--mm-quiet); max-width: 75ch; }
.mm-hint { color: var(--mm-quiet); }
.mm-card, .mm-why { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1rem; padding: 1rem; border: 1px solid var(--border-color-primary); border-radius: 12px; background: var(--block-background-fill); }
.mm-card tbody tr, .mm-why tbody tr { border: 0 !important; border-top: 1px solid var(--border-color-primary) !important; }
.mm-card thead, .mm-card thead tr, .mm-card tr:first-child { border: 0 !important; }
.mm-card p { margin: 0; }
.mm-emotion { font-size: 1.5rem; font-weight: 400; margin: 0 0 .2rem; }
.mm-emotion strong { color: var(--mm-accent); }
.mm-footer, .mm-card caption, .mm-card summary, .mm-card small, .mm-absences { color: var(--mm-quiet); }
.mm-footer { font-size: .85rem; }
:is(.mm-footer, .mm-absences, .mm-notes, .mm-said, .mm-status, .mm-words) { overflow-wrap: anywhere; }

.mm-card table, .mm-why table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; border: 0; margin: 0; }
.mm-card caption, .mm-why caption { text-align: left; padding-bottom: .4rem; font-size: .9rem; }
.mm-card :is(th, td), .mm-why :is(th, td) { padding: .25rem .35rem; text-align: left; font-weight: 400; border: 0; background: none; vertical-align: bottom; }
.mm-card thead th { font-size: .85rem; color: var(--mm-quiet); }
.mm-card thead small { display: block; }
.mm-votes td { width: 21%; font-size: .85rem; }
.mm-votes .mm-top { font-weight: 700 !important; }
.mm-bar { display: block; height: 6px; margin-bottom: 1px; border-radius: 3px; background: var(--mm-track); overflow: hidden; }
.mm-bar::after { content: ""; display: block; height: 100%; width: calc(var(--share) * 100%); border-radius: 3px; background: var(--mm-quiet); }
.mm-top .mm-bar::after { background: var(--mm-accent); }
.mm-absences { margin: .5rem 0 0 !important; padding: 0; list-style: none; font-size: .85rem; }

.mm-pulls :is(th, td) { vertical-align: middle; white-space: nowrap; }
.mm-pull { width: 50%; background: linear-gradient(var(--mm-quiet), var(--mm-quiet)) 50% / 1px 100% no-repeat !important; }
.mm-pull span { display: block; height: 10px; border-radius: 2px; width: calc(var(--share) * 50%); }
.mm-for { margin-left: 50%; background: var(--mm-for); }
.mm-against { margin-left: calc(50% - var(--share) * 50%); background: var(--mm-against); }

.mm-list th { white-space: nowrap; }
.mm-scroll { max-height: 16rem; overflow-y: auto; }
.mm-notes { border-left: 3px solid var(--mm-quiet); padding: .2rem .8rem; font-size: .9rem; }
.mm-notes ul { margin: .2rem 0 0; padding-left: 1.1rem; }
.mm-words { display: flex; flex-wrap: wrap; gap: .3rem .8rem; list-style: none; padding: 0; margin: .4rem 0 0; }
.mm-wide { overflow-x: auto; }
.mm-why img { width: 100%; min-width: 580px; height: auto; margin: 0; }
.dark .mm-why img { background: #f1f5f9; border-radius: 8px; }
.mm-why :is(h3, p) { margin: 0; }
.mm-why :is(h2, h3) { margin: 0 0 .3rem; font-size: 1.05rem; }
.mm-said span { display: inline-block; padding: .1rem .35rem; margin: 0 .15rem .3rem 0; border-radius: 4px; background: color-mix(in srgb, var(--tone) calc(var(--share) * 35%), transparent); border-bottom: 2px solid var(--tone); }
.mm-said .mm-plus { --tone: var(--mm-for); }
.mm-said .mm-minus { --tone: var(--mm-against); border-bottom-style: dashed; }
.mm-said small, .mm-numbers { font-variant-numeric: tabular-nums; }
.mm-numbers, .mm-trust { font-size: .9rem; }

:is(#review-status, #review-doing, #review-decided, #review-detail, #review-history):not(:has(.prose > *)) { display: none; }
.mm-pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1rem; align-items: start; }
.mm-alphas td:nth-child(2) { width: 35%; min-width: 3rem; vertical-align: middle; }
.mm-card .mm-confusion td { text-align: right; background: color-mix(in srgb, var(--mm-accent) calc(var(--share, 0) * 35%), transparent) !important; }
.mm-card .mm-confusion thead th { text-align: right; }
.mm-confusion .mm-same { outline: 2px solid var(--mm-quiet); outline-offset: -2px; }
.mm-confusion th[scope=row] { position: sticky; left: 0; background: var(--block-background-fill) !important; }
.mm-review :is(h3, .mm-clip) { margin: 0; }
.mm-clip { width: 100%; max-height: 360px; border-radius: 8px; }
.mm-beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; list-style: none; margin: 0; padding: 0; }
.mm-beside li { display: flex; flex-direction: column; gap: .15rem; margin: 0; padding: .6rem; border: 1px solid var(--border-color-primary); border-radius: 8px; overflow-wrap: anywhere; }
.mm-beside q, .mm-history q { font-style: italic; }
.mm-history { margin: .5rem 0 0; padding-left: 1.8rem; overflow-wrap: anywhere; }
.mm-history time, .mm-history em { color: var(--mm-quiet); font-variant-numeric: tabular-nums; }
.gradio-container :is(input[type=radio], input[type=checkbox]):focus-visible { outline: 3px solid var(--mm-accent) !important; outline-offset: 2px; }
#review-items .wrap { flex-direction: column; align-items: stretch; }
#review-items .wrap label { width: 100%; }

.mm-status { padding: .5rem .8rem; border-radius: 8px; background: var(--block-background-fill); border: 1px solid var(--border-color-primary); }
.mm-status p { margin: 0; }
.mm-failed { border-color: var(--mm-bad); color: var(--mm-bad); }
.mm-done { border-color: var(--mm-accent); }
.mm-busy { display: flex; justify-content: space-between; position: relative; overflow: hidden; }
.mm-busy::after { content: ""; position: absolute; left: 0; bottom: 0; height: 3px; width: 30%; background: var(--mm-accent); animation: mm-slide 1.4s ease-in-out infinite alternate; }
@keyframes mm-slide { to { left: 70%; } }
@media (prefers-reduced-motion: reduce) { .mm-busy::after { animation: none; width: 100%; } }
.mm-stage { display: grid; gap: .6rem; padding: 1rem; border: 1px solid var(--border-color-primary); border-radius: 12px; background: var(--block-background-fill); }
.mm-stage p { margin: 0; }
.mm-stage:focus-visible { outline: 2px solid var(--mm-accent); outline-offset: 1px; }
#mm-screen { min-height: 8rem; display: grid; place-items: center; }
#mm-screen[hidden], #mm-words[hidden] { display: none; }
#mm-screen :is(video, img) { max-width: 100%; max-height: 360px; border-radius: 8px; }
#mm-screen audio { width: 100%; }
#mm-screen.mm-dark video { filter: brightness(0); }
#mm-words { font-size: 1.1rem; }
.mm-modes { display: flex; flex-wrap: wrap; gap: .4rem; }
.mm-modes button { padding: .35rem .7rem; border: 1px solid var(--border-color-primary); border-radius: 8px; background: var(--input-background-fill); color: inherit; font-size: .9rem; }
.mm-modes button[aria-pressed="true"] { border-color: var(--mm-accent); box-shadow: inset 0 0 0 1px var(--mm-accent); font-weight: 700; }
.mm-modes button:focus-visible { outline: 3px solid var(--mm-accent); outline-offset: 2px; }
.mm-live { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.mm-active { outline: 2px solid var(--mm-accent); border-radius: 10px; }
.mm-progress .mm-bar::after { background: var(--mm-accent); }
.mm-modes [hidden] { display: none; }
.mm-progress small { color: var(--mm-quiet); }
.mm-keys { display: grid; grid-template-columns: max-content 1fr; gap: .25rem .9rem; }
.mm-keys dt { font-weight: 700; }
.mm-keys dd { margin: 0; }
@media (max-width: 640px) {
  .gradio-container { padding: .5rem !important; }
  .mm-card { padding: .7rem; }
  .mm-card :is(th, td) { padding-inline: .15rem; font-size: .8rem; }
}
"""
