"""The Projects tab: what an owner without a command line needs to have clips labelled."""

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.oauth import OAuthProfile

from annotations.choices import FORMATS, GOLD_SHARE, ORDERS, PER_ITEM, ROLES, TARGETS
from annotations.formats.import_export import export_labels, format_of, import_labels
from annotations.queue import progress, projects
from annotations.queue.assignment import Queue
from annotations.queue.projects import Project
from annotations.queue.uploads import TABLES, import_upload
from mmer.errors import LabelError
from mmer.labels import EMOTIONS
from mmer.ui import agreement_html, result_html
from mmer.ui.auth import authorize
from mmer.ui.handlers import report_errors
from mmer.ui.language import gettext, isolated, label
from mmer.ui.names import ROLE_NAMES, choice
from mmer.ui.render import render
from mmer.ui.service import Service

_FOLDERS = ("hf", "elan", "webvtt")  # formats of several files, which leave as one archive
_ENDINGS = {"csv": "csv", "jsonl": "jsonl", "labelstudio": "json"}

_ORDERS = [
    (label("uncertainty"), "uncertainty"),
    (label("margin"), "margin"),
    (label("branches"), "branches"),
    (label("annotators"), "annotators"),
    (label("diversity"), "diversity"),
    (label("random"), "random"),
]
_ROLES = [(label(ROLE_NAMES.marked(role)), role) for role in ROLES]


class ProjectsTab:
    """Lays the tab out in the page being built, and answers its events.

    Args:
        tab: whose choice brings the list up to date; only those who may manage see it.
    """

    def __init__(self, service: Service, tab: gr.Tab):
        self.service = service
        self.store = service.store
        with gr.Column(elem_classes="mm-needs-manage"):
            self._build()
        self._connect(tab)

    def _build(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                self.project = gr.Dropdown(
                    [],
                    label=label("Project"),
                    value=None,
                    allow_custom_value=True,
                    elem_id="project-name",
                    info=label("Type another name to make a new one."),
                )
                self._build_settings()
            with gr.Column(scale=6, min_width=320):
                self.told = gr.HTML(label="Told", elem_id="project-told")
                self.overview = gr.HTML(label="Progress", elem_id="project-overview")
                self._build_files()
                self._build_people()

    def _build_settings(self) -> None:
        self.guidelines = gr.Textbox(
            label=label("Guidelines (Markdown)"), value="", lines=4, max_lines=12, elem_id="project-guidelines"
        )
        self.labels = gr.CheckboxGroup(
            [choice(e) for e in EMOTIONS], value=list(EMOTIONS), label=label("Emotions to choose from")
        )
        self.targets = gr.CheckboxGroup(
            [(label(agreement_html.TARGETS.marked(t)), t) for t in TARGETS],
            value=["all"],
            label=label("What is judged"),
        )
        with gr.Row():
            self.per_item = gr.Number(PER_ITEM, label=label("Annotators for each item"), precision=0, min_width=120)
            self.gold_share = gr.Number(GOLD_SHARE, label=label("Share of known answers"), min_width=120)
        self.order = gr.Dropdown(_ORDERS, value=ORDERS[0], label=label("What comes first"))
        self.blind = gr.Checkbox(True, label=label("Hide the model's answer until one has chosen"))
        self.save_button = gr.Button(label("Make, or save the settings"), variant="primary", elem_id="project-save")

    def _build_files(self) -> None:
        with gr.Accordion(label("Add clips"), open=True, elem_id="project-clips"):
            self.clips = gr.File(
                label=label("A zip of recordings, or a table (CSV, JSONL) of sentences"),
                file_types=[".zip", *TABLES],
                elem_id="project-upload",
                height=160,
            )
            self.consent = gr.Textbox(
                label=label("What the recorded people agreed to"), value="", lines=2, elem_id="project-consent"
            )
            self.add_button = gr.Button(label("Add to the project"), elem_id="project-add")
        with gr.Accordion(label("Labels in and out"), open=False, elem_id="project-labels"):
            with gr.Row():
                self.format = gr.Dropdown(list(FORMATS), value=FORMATS[0], label=label("Format"), min_width=120)
                self.export_button = gr.Button(label("Export all labels"), elem_id="project-export", min_width=120)
            self.exported = gr.File(label=label("Exported"), interactive=False, elem_id="project-exported", height=80)
            self.label_file = gr.File(label=label("A file of labels"), elem_id="project-label-file", height=160)
            self.import_button = gr.Button(label("Import its labels"), elem_id="project-import")

    def _build_people(self) -> None:
        with gr.Accordion(label("People"), open=False, elem_id="project-people"):
            self.people = gr.HTML(label="Accounts", elem_id="project-accounts")
            with gr.Row():
                self.person = gr.Textbox(label=label("Name"), value="", elem_id="project-person", min_width=120)
                self.role = gr.Dropdown(_ROLES, value=ROLES[1], label=label("Role"), min_width=120)
            with gr.Row():
                self.role_button = gr.Button(label("Give the role"), elem_id="project-role", min_width=120)
                self.remove_button = gr.Button(label("Remove the account"), elem_id="project-remove", min_width=120)

    def _connect(self, tab: gr.Tab) -> None:
        settings = [self.guidelines, self.labels, self.targets, self.per_item, self.gold_share, self.order, self.blind]
        shown = [self.project, *settings, self.overview, self.people, self.told]
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        tab.select(self.list_all, [self.project], shown, api_name="project_list", **quiet)
        self.project.input(self.show, [self.project], shown, api_name="project_show", **quiet)
        self.save_button.click(
            self.save, [self.project, *settings], shown, api_name="project_save", preprocess=True, **quiet
        )
        self.add_button.click(
            self.add_clips,
            [self.project, self.clips, self.consent],
            [*shown, self.clips],
            api_name="project_add",
            show_progress="minimal",
            show_progress_on=[self.told],
        )
        self.export_button.click(
            self.export, [self.format], [self.exported, self.told], api_name="project_export", **quiet
        )
        self.import_button.click(
            self.import_labels,
            [self.project, self.label_file, self.format],
            [*shown, self.label_file],
            api_name="project_import",
            **quiet,
        )
        for button, handler, name in (
            (self.role_button, self.give_role, "project_role"),
            (self.remove_button, self.remove_account, "project_remove_account"),
        ):
            button.click(handler, [self.person, self.role], [self.people, self.told], api_name=name, **quiet)

    @report_errors("told")
    def list_all(self, request: gr.Request, profile: OAuthProfile | None, name=""):
        try:
            authorize(self.service, "manage", request, profile)
        except LabelError:
            yield {self.told: ""}  # they do not see the tab
            return
        names = [p.name for p in projects.projects(self.store)]
        chosen = name if name in names else next(iter(names), None)
        yield self._shown(chosen) | {self.project: gr.Dropdown(choices=names, value=chosen), self.told: ""}

    @report_errors("told")
    def show(self, request: gr.Request, profile: OAuthProfile | None, name=""):
        authorize(self.service, "manage", request, profile)
        names = [p.name for p in projects.projects(self.store)]
        told = gettext("There is no project {name} yet: fill in its settings, and make it.", name=isolated(name or ""))
        told = "" if name in names else told
        yield self._shown(name if name in names else None) | {self.told: told and result_html.status(told)}

    @report_errors("told")
    def save(
        self,
        request: gr.Request,
        profile: OAuthProfile | None,
        name="",
        guidelines="",
        labels=EMOTIONS,
        targets=("all",),
        per_item=PER_ITEM,
        gold_share=GOLD_SHARE,
        order=ORDERS[0],
        blind=True,
    ):
        person = authorize(self.service, "manage", request, profile)
        actor = person.name or "somebody"
        settings: dict[str, Any] = {"guidelines": guidelines or "", "blind": bool(blind)}
        settings |= {"label_set": list(labels or ()), "targets": list(targets or ())}
        settings |= {"per_item": per_item, "gold_share": gold_share}
        if not (name or "").strip():
            raise LabelError("bad_project", "a project needs a name")
        if name in [p.name for p in projects.projects(self.store)]:
            saved = projects.change(self.store, name, actor=actor, **settings)
            if order != saved.order:
                Queue(self.store, saved).rank(order)
            told = gettext("{name} is as you set it.", name=isolated(saved.name))
        else:
            saved = projects.create(self.store, name, order=order, actor=actor, **settings)
            told = gettext(
                "{name} is made. Add clips to it, and annotators find it under Label.", name=isolated(saved.name)
            )
        names = [p.name for p in projects.projects(self.store)]
        page = self._shown(saved.name)
        yield page | {self.project: gr.Dropdown(choices=names, value=saved.name), self.told: result_html.status(told)}

    @report_errors("told")
    def add_clips(self, request: gr.Request, profile: OAuthProfile | None, name="", upload=None, consent=""):
        person = authorize(self.service, "manage", request, profile)
        if not upload:
            raise LabelError("no_file", "choose a zip of recordings, or a table of sentences")
        project = self._project(name)
        report = import_upload(self.store, project, Path(upload), self.service.paths.imports, consent or "")
        detail = {"project": project.name, "items": report.items, "bad": len(report.bad)}
        self.store.audit(person.name or "somebody", "project.import", detail)
        told = gettext(
            "{n} items are new in {name}, {present} were there already.",
            n=report.items,
            name=isolated(project.name),
            present=report.present,
        )
        shown = render("import_report.html", told=told, bad=report.bad, left_out=report.left_out)
        yield self._shown(project.name) | {self.told: shown, self.clips: None}

    @report_errors("told")
    def export(self, request: gr.Request, profile: OAuthProfile | None, format=FORMATS[0]):
        authorize(self.service, "manage", request, profile)
        if format not in FORMATS:
            raise LabelError("unknown_format", f"{format!r} is none of {', '.join(FORMATS)}")
        # In the folder of the uploads, whose files only those find who know their path, and which is swept.
        folder = Path(tempfile.mkdtemp(prefix="export-", dir=self.service.paths.uploads))
        out = folder / f"labels.{_ENDINGS.get(format, format)}"
        report = export_labels(self.store, out, format)
        if format in _FOLDERS:
            out = Path(shutil.make_archive(str(folder / f"labels-{format}"), "zip", out))
        told = gettext("{n} labels are in {file}.", n=report.labels, file=out.name)
        if report.left_out:
            told += gettext(" The format has no place for {fields}.", fields=", ".join(report.left_out))
        yield {self.exported: str(out), self.told: result_html.status(told)}

    @report_errors("told")
    def import_labels(self, request: gr.Request, profile: OAuthProfile | None, name="", upload=None, format=""):
        person = authorize(self.service, "manage", request, profile)
        if not upload:
            raise LabelError("no_file", "choose a file of labels")
        file = Path(upload)
        report = import_labels(self.store, file, format if format in _ENDINGS else format_of(file))
        self.store.audit(person.name or "somebody", "labels.import", {"labels": report.imported})
        told = gettext("{n} labels are new, {present} were there already.", n=report.imported, present=report.present)
        shown = render("import_report.html", told=told, bad=report.bad, left_out=sorted(report.left_out))
        yield self._shown(name if name else None) | {self.told: shown, self.label_file: None}

    @report_errors("told")
    def give_role(self, request: gr.Request, profile: OAuthProfile | None, name="", role=ROLES[1]):
        person = authorize(self.service, "manage", request, profile)
        known = self.service.accounts.person(name or "")
        if known is None and not self.service.paths.space:
            raise LabelError(
                "unknown_account",
                f"nobody has an account {name!r}; `python -m annotations account add NAME ROLE` makes one, because it "
                "asks for a password",
            )
        if known is None:
            self.service.accounts.add(name, None, role)
        else:
            self._refuse_own(person.name, name)
            self.service.accounts.change_role(name, role)
        self.store.audit(person.name or "somebody", "account.role", {"role": role})
        yield {
            self.people: self._accounts(),
            self.told: result_html.status(
                gettext("{name} is {role} from now on.", name=isolated(name), role=ROLE_NAMES[role])
            ),
        }

    @report_errors("told")
    def remove_account(self, request: gr.Request, profile: OAuthProfile | None, name="", role=ROLES[1]):
        person = authorize(self.service, "manage", request, profile)
        self._refuse_own(person.name, name or "")
        self.service.accounts.remove(name or "")
        self.store.audit(person.name or "somebody", "account.remove", {})
        told = gettext("{name} can do no more than anybody; their labels stay.", name=isolated(name or ""))
        yield {self.people: self._accounts(), self.told: result_html.status(told)}

    def _refuse_own(self, own: str, name: str) -> None:
        if own and own == name:
            raise LabelError("own_account", "your own account somebody else has to change: you could lock yourself out")

    def _project(self, name: str | None) -> Project:
        if not name:
            raise LabelError("no_project", "choose a project, or make one")
        return projects.project(self.store, name)

    def _accounts(self) -> str:
        return render("accounts.html", people=self.service.accounts.people(), space=self.service.paths.space)

    def _shown(self, name: str | None) -> dict:
        """Return the page with a project's settings and progress; those of a new one for no name."""
        page: dict = {self.people: self._accounts()}
        if name is None:
            return page | {self.overview: ""}
        project = projects.project(self.store, name)
        with self.store.reading() as session:
            people = progress.by_annotator(session, project.id)
        counts = projects.counts(self.store, project)
        fields = ("guidelines", "per_item", "gold_share", "order", "blind")
        settings = {name: value for name, value in asdict(project).items() if name in fields}
        blocks = (self.guidelines, self.per_item, self.gold_share, self.order, self.blind)
        page |= dict(zip(blocks, (settings[name] for name in fields), strict=True))
        page |= {self.labels: list(project.label_set), self.targets: list(project.targets)}
        return page | {self.overview: render("project.html", project=project, counts=counts, people=people)}
