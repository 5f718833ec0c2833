"""The `vqclip doctor` command: prints what `doctor` and `rehearsal` find. Looks at nothing itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from vqclip.cli.models import meter
from vqclip.job import InputError

if TYPE_CHECKING:
    from vqclip.run.doctor import Check, Finding

_WIDTH = 14  # of a check's name


@click.command()
@click.option("--weights", default="none", type=click.Choice(["none", "small"]),
              help="small: also fetch ViT-B/32 and the smallest VQGAN (0.7 GB), and draw 20 steps.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
def doctor(weights: str, *, as_json: bool) -> None:
    """Check whether everything works here: one line per check, `ok` with a fact or `no` with what to do."""
    from vqclip.run import doctor as machine

    findings = []
    for found in machine.examine(machine.checks()):
        findings.append(found)
        _show(found, as_json=as_json)
    for found in machine.examine(_published() if weights == "small" else []):
        findings.append(found)
        _show(found, as_json=as_json)
    problem = machine.fault(findings)
    if problem is not None:
        raise problem


def _published() -> list[Check]:
    try:
        from vqclip.run.rehearsal import Rehearsal
    except ImportError as error:
        raise InputError(f"{error}; the line on packages says what to install") from error
    return Rehearsal(meter).checks()


def _show(found: Finding, *, as_json: bool) -> None:
    from vqclip.config.document import clean

    fine = found.problem is None
    if as_json:
        row = {"check": found.name, "ok": fine, "said": found.said, "seconds": round(found.seconds, 2)}
        click.echo(json.dumps(row, ensure_ascii=False))
    else:
        click.echo(f"{'ok' if fine else 'no'}  {found.name:<{_WIDTH}}  {clean(found.said)} ({found.seconds:.1f} s)")
