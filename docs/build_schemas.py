"""Writes schemas/*.schema.json: the JSON Schema of every kind of result file. Run it with `make schemas`.

A schema says which fields a file of this version holds, of which type, and which of them may be null ("not measured",
"undefined"). Fields that it doesn't name may come with later versions, and are no error. Files of versions before,
which are read too, needn't hold all.
"""

import json
import sys
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

FOLDER = Path(__file__).with_name("schemas")
DRAFT = "https://json-schema.org/draft/2020-12/schema"

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
MAYBE: Schema = {"type": ["number", "null"]}
FLAG: Schema = {"type": "boolean"}
ANY: Schema = {"type": "object"}
LABEL: Schema = {"type": ["boolean", "null"]}
NAMED: Schema = {"type": ["string", "null"]}
ORDER: Schema = {"enum": ["yes_no", "no_yes"]}
SIDE: Schema = {"enum": ["no", "yes", "bias", "later", ""]}
HEAD: Schema = {"type": "string", "pattern": r"^\d+\.\d+$"}
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
VERSIONS: Schema = {"type": "object", "additionalProperties": TEXT}


def rows(of: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": of}


def by_name(of: Schema) -> Schema:
    """An object with names of any kind."""
    return {"type": "object", "additionalProperties": of}


def by_order(of: Schema) -> Schema:
    """An object with one entry a candidate order, of one order or both."""
    return {"type": "object", "propertyNames": ORDER, "additionalProperties": of}


def either(*kinds: Schema) -> Schema:
    """One of several."""
    return {"anyOf": list(kinds)}


def fields(optional: dict[str, Schema] | None = None, **required: Schema) -> Schema:
    """An object with these fields; `optional` may be absent."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


NULL: Schema = {"type": "null"}
INTERVAL = {"type": "array", "prefixItems": [MAYBE, MAYBE], "minItems": 2, "maxItems": 2, "items": False}
SPAN = {"type": "array", "prefixItems": [COUNT, COUNT], "minItems": 2, "maxItems": 2, "items": False}
TABLE = rows(ANY)
GRID = rows(rows(MAYBE))
RUN = fields(
    model=TEXT,
    model_hash=TEXT,
    data=TEXT,
    n_questions=COUNT,
    orders=rows(ORDER),
    template=ANY,
    seed=COUNT,
    draws=COUNT,
    engine=TEXT,
    device=TEXT,
    dtype=TEXT,
    versions=VERSIONS,
    created=TEXT,
    seconds=MAYBE,
    notes=rows(TEXT),
)
FILES = by_name(SHA256)
MEASURES: Schema = {
    "type": "object",
    "properties": {"n": COUNT},
    "required": ["n"],
    "additionalProperties": fields(value=MAYBE, interval=INTERVAL),
}
MEASURED = {
    "verdict": TEXT,
    "warnings": rows(TEXT),
    "overall": MEASURES,
    "orders": by_order(MEASURES),
    "groups": by_name(MEASURES),
    "cells": by_name(by_order(MEASURES)),
}
CHANGE = fields(before=MAYBE, after=MAYBE, change=MAYBE, low=MAYBE, high=MAYBE)
DECISION = fields(
    {"made": NAMED, "context": {"type": ["integer", "null"]}, "unsure": FLAG},
    id=TEXT,
    group=TEXT,
    pair=NAMED,
    order=ORDER,
    label=LABEL,
    logit_difference=NUMBER,
    answer_mass=MAYBE,
    question=TEXT,
)
HEAD_TABLE = {
    "quantity": TEXT,
    "unit": TEXT,
    "sign": {"enum": [1, -1]},
    "columns": rows(TEXT),
    "intervals": by_name(rows(GRID)),
    "ids": rows(TEXT),
    "pairs": rows(NAMED),
    "asked": TEXT,
    "tensors_sha256": either(SHA256, NULL),
    "run": RUN,
}
CONTROL = fields(effect=MAYBE, random=rows(MAYBE), p=MAYBE)
VALIDATION = fields(
    imbalance=by_order(MAYBE),
    soft_imbalance=by_order(MAYBE),
    auc=by_order(MAYBE),
    answer_mass=MAYBE,
    mean_logit_difference=by_order(MAYBE),
    accuracy=MAYBE,
    loss=MAYBE,
    nas=MAYBE,
    ranks=by_order(MAYBE),
    agreement=MAYBE,
)
GENERATED = fields(
    {"context": TEXT, "made": TEXT},
    question=TEXT,
    label=LABEL,
    id=TEXT,
    group=TEXT,
    pair=NAMED,
    order=ORDER,
    text=TEXT,
    answer=LABEL,
)
OPTION = fields(id=TEXT, question=TEXT, options=rows(TEXT), answer=COUNT, topic=TEXT)
SHOWN = fields(order=ORDER, d=NUMBER, tokens=rows(TEXT), breaks=rows(COUNT), roles=rows(TEXT), first_query=COUNT)
SHOWN_HEAD = fields(nas=MAYBE, received=rows(MAYBE), added=rows(MAYBE), shades=rows(MAYBE), leans=rows(MAYBE))
PATCHED = fields(pairs=COUNT, difference=MAYBE, table=TABLE, together=either(ANY, NULL), run=RUN)

KINDS: dict[str, tuple[str, Schema]] = {
    "binary_report": (
        "A report of decisions (decide --out)",
        fields({"made": by_name(MEASURES), "contexts": rows(TEXT)}, **MEASURED, decisions=rows(DECISION), run=RUN),
    ),
    "streamed_report": (
        "A report of decisions in parts (decide --parts --out)",
        fields({"made": by_name(MEASURES)}, **MEASURED, parts=TEXT, run=RUN),
    ),
    "stream_setting": ("What must be the same for a run in parts to go on", fields(parts=COUNT)),
    "part": ("What stands beside a part's rows", fields(rows=COUNT, sha256=SHA256)),
    "calibration": (
        "Offsets of the decisions (calibrate --out)",
        fields(
            offsets=by_order(NUMBER),
            low=by_order(MAYBE),
            high=by_order(MAYBE),
            prior=NUMBER,
            by={"enum": ["mean", "quantile"]},
            yes_tokens=rows(COUNT),
            no_tokens=rows(COUNT),
            shared=rows(COUNT),
            run=RUN,
        ),
    ),
    "head_scores": (
        "The scores of every head (score --out)",
        fields(**HEAD_TABLE, values=GRID, polarity=GRID, recency=GRID),
    ),
    "head_table": ("One number a head", fields(**HEAD_TABLE, values=GRID)),
    "direct_attribution": (
        "Direct logit attribution",
        fields(**HEAD_TABLE, values=GRID, parts=by_name(MAYBE), d=MAYBE),
    ),
    "heads": (
        "A list of heads (heads --out)",
        fields(
            by=TEXT,
            toward=SIDE,
            heads=rows(fields({"score": MAYBE}, layer=COUNT, index=COUNT)),
            run=either(RUN, ANY, NULL),
        ),
    ),
    "ablation_effect": (
        "What changing heads did (ablate --out)",
        fields(
            {"control": either(CONTROL, NULL)},
            heads=rows(HEAD),
            by=TEXT,
            toward=SIDE,
            intervention=TEXT,
            changes=by_name(CHANGE),
            orders=by_order(by_name(CHANGE)),
            run=RUN,
        ),
    ),
    "patch_effects": (
        "The effects of patches in one candidate order",
        fields(
            pair_kind={"enum": ["question", "neutral", "order"]},
            difference=MAYBE,
            heads=rows(HEAD),
            table=TABLE,
            by={"enum": ["head", "class", "position", "together"]},
            run=RUN,
        ),
    ),
    "patch_summary": (
        "Activation patching in each candidate order (patch --out)",
        fields(pair_kind={"enum": ["question", "neutral", "order"]}, orders=by_order(PATCHED)),
    ),
    "ranking_contest": (
        "A contest of rankings",
        fields(
            table=TABLE,
            summary=TABLE,
            winners=ANY,
            correlations=ANY,
            rankings=by_name(fields(heads=rows(HEAD), scores=rows(MAYBE), by=TEXT)),
            details=ANY,
            run=RUN,
        ),
    ),
    "confirmation": (
        "A contest's winner on data kept apart",
        fields(table=TABLE, by=TEXT, toward=SIDE, heads=rows(HEAD), details=ANY, run=RUN),
    ),
    "alignment": (
        "The log of a tuning (align --out)",
        fields(
            files_sha256=FILES,
            heads=rows(HEAD),
            base=VALIDATION,
            tuned=VALIDATION,
            table=TABLE,
            checkpoints=TABLE,
            outside_hash=TEXT,
            setting=ANY,
            run=RUN,
        ),
    ),
    "export": (
        "What an exported folder holds (nasa_interp/export.json)",
        fields(
            format=TEXT,
            base_model=TEXT,
            base_hash=TEXT,
            result_hash=TEXT,
            license=NAMED,
            heads=by_name(fields(projections=rows(TEXT), shared_with=rows(HEAD))),
            slices=COUNT,
            changed_entries=COUNT,
            share=NUMBER,
            dtype=TEXT,
            log=ANY,
            notes=TEXT,
            versions=VERSIONS,
        ),
    ),
    "harness_task": (
        "What the tasks for other programs are made of (task --out)",
        fields(
            name=TEXT,
            prompt={"enum": ["chat", "plain"]},
            orders=rows(ORDER),
            choices={"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2},
            lead={"enum": ["", " "]},
            before=by_order(rows(fields(role=TEXT, content=TEXT))),
            template_arguments=by_name(FLAG),
            data=TEXT,
            n_questions=COUNT,
            template=ANY,
            versions=VERSIONS,
        ),
    ),
    "text_change": (
        "What a change did to plain text",
        fields(
            before=NUMBER,
            after=NUMBER,
            ratio=NUMBER,
            interval=INTERVAL,
            kl=MAYBE,
            base=RUN,
            run=RUN,
            passages=TABLE,
        ),
    ),
    "option_report": (
        "Answers to four-option questions",
        fields(n=COUNT, accuracy=MAYBE, interval=INTERVAL, run=RUN, items=rows(OPTION), scores=rows(rows(MAYBE))),
    ),
    "change_report": (
        "What a change of heads gained and cost",
        fields(
            groups=rows(TEXT),
            table=rows(fields(measure=TEXT, **CHANGE["properties"])),
            files_sha256=FILES,
            carried=rows(TEXT),
            said=either(rows(rows(GENERATED)), NULL),
            run=RUN,
        ),
    ),
    "entry": (
        "A finished run of a method in a comparison",
        fields(
            method=TEXT,
            variant=TEXT,
            weights=COUNT,
            share=NUMBER,
            seconds=MAYBE,
            fitted=ANY,
            has_text=FLAG,
            files_sha256=FILES,
        ),
    ),
    "comparison": (
        "Tuned heads beside their baselines (compare --out)",
        fields(
            verdict=either(TEXT, rows(TEXT)),
            table=TABLE,
            summary=TABLE,
            groups=rows(TEXT),
            entries=rows(TEXT),
            files_sha256=FILES,
            details=ANY,
            run=RUN,
        ),
    ),
    "transfer": (
        "What cures are worth where they were not fitted (transfer --out)",
        fields(verdict=TEXT, cells=TABLE, table=TABLE, summary=TABLE, p_values=TABLE, details=ANY, run=RUN),
    ),
    "form_matrix": (
        "Data sets and forms in one table (matrix --out)",
        fields(verdict=either(TEXT, rows(TEXT)), table=TABLE, claims=TABLE, shortcuts=rows({}), details=ANY, run=RUN),
    ),
    "knowledge": (
        "What a model knows when it is asked openly",
        fields(counts=by_name(COUNT), questions=rows(fields(id=TEXT, state=TEXT)), run=RUN),
    ),
    "head_view": (
        "One prompt under the lens",
        fields(
            question=TEXT,
            order=ORDER,
            tokens=rows(TEXT),
            first_query=COUNT,
            yes_span=SPAN,
            no_span=SPAN,
            heads=rows(HEAD),
            logit_difference=NUMBER,
            contributions=rows(rows(MAYBE)),
            attention=rows(GRID),
            run=RUN,
        ),
    ),
    "explorer_snapshot": (
        "What an explorer shows (explorer.json)",
        fields(
            size={"type": "array", "items": COUNT, "minItems": 2, "maxItems": 2},
            grids=rows(
                fields(
                    name=TEXT, title=TEXT, unit=TEXT, low_means=TEXT, reach=NUMBER, numbers=GRID, low=GRID, high=GRID
                )
            ),
            prompts=rows(fields(question=TEXT, orders=rows(SHOWN), heads=by_name(rows(SHOWN_HEAD)))),
            chosen=rows(HEAD),
            effects=TABLE,
            run=RUN,
        ),
    ),
    "demo": (
        "The whole story (demo.json)",
        fields(
            folder=TEXT,
            verdict=TEXT,
            overall=MEASURES,
            toward=SIDE,
            top_by_values=rows(HEAD),
            top_by_polarity=rows(HEAD),
            ablation=by_name(CHANGE),
            alignment=NAMED,
            after=either(MEASURES, NULL),
            change=either(ANY, NULL),
            page=TEXT,
            command=NAMED,
            seconds=by_name(NUMBER),
        ),
    ),
}


def schema(kind: str) -> Schema:
    """The schema of the files of a kind."""
    title, content = KINDS[kind]
    properties = {"kind": {"const": kind}, **content["properties"]}
    required = ["kind", *content["required"]]
    return {"$schema": DRAFT, "title": title, "type": "object", "properties": properties, "required": required}


def pages() -> dict[str, str]:
    """Every file of the folder by name."""
    return {f"{kind}.schema.json": json.dumps(schema(kind), indent=1) + "\n" for kind in KINDS}


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.schema.json"):
        old.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
