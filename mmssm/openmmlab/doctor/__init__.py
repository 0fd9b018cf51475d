"""mmssm-doctor: what is here, what works, and how to mend what does not.

Imports the standard library only, so that it can report on any broken environment.
"""

import argparse
import json
import sys
from dataclasses import asdict

from mmssm.openmmlab.doctor.conditions import (
    ONEDL,
    ORIGINAL,
    has_openmmlab,
    present,
)
from mmssm.openmmlab.doctor.facts import Facts, gather
from mmssm.openmmlab.doctor.traps import Finding, judge

LABELS = {'fail': 'FAIL', 'warn': 'warn', 'note': 'note'}


def main(argv: list[str] | None = None) -> int:
    """Print the report; 1 when something makes work here impossible, else 0."""
    parser = argparse.ArgumentParser(prog='mmssm-doctor', description=main.__doc__)
    parser.add_argument('--json', action='store_true', help='for other programs')
    args = parser.parse_args(argv)
    print('Importing every package in a process of its own ...', file=sys.stderr)
    facts = gather()
    findings = judge(facts)
    failed = sum(f.level == 'fail' and f.detail is not None for f in findings)
    if args.json:
        print(as_json(facts, findings))
    else:
        print(as_text(facts, findings))
    return 1 if failed else 0


def as_json(facts: Facts, findings: list[Finding]) -> str:
    """All that was found."""
    material = asdict(facts)
    material['probes'] = {
        name: {'result': probe.result, 'error': probe.error}
        for name, probe in facts.probes.items()
    }
    return json.dumps(
        {'facts': material, 'traps': [finding._asdict() for finding in findings]},
        indent=2,
    )


def as_text(facts: Facts, findings: list[Finding]) -> str:
    """The report for people."""
    failed = [f for f in findings if f.level == 'fail' and f.detail is not None]
    use = 'Training'
    if not has_openmmlab(facts):
        use = 'Work with layers, backbones and mmssm.create_model'
    verdict = f'{use} is possible here.'
    if failed:
        verdict = f'{use} is impossible here: {len(failed)} to mend, marked FAIL.'
    sections = {
        'Versions': versions(facts),
        'Devices': devices(facts),
        'Ops: backends in order of preference': backends(facts),
        'Known traps': trap_lines(findings),
    }
    blocks = ['\n  '.join([title, *lines]) for title, lines in sections.items()]
    return '\n\n'.join([*blocks, verdict])


def versions(facts: Facts) -> list[str]:
    """A line for each package and compiler."""
    torch = facts.probes['torch']
    stacks = {'OneDL fork': ONEDL, 'original packages': ORIGINAL}
    found = {name: present(facts, members) for name, members in stacks.items()}
    rows = {
        'python': f'{facts.python}, {facts.executable}',
        'system': facts.system,
        'mmssm': facts.probes['mmssm'].result.get('version', 'not importable'),
        'torch': torch.result.get('version', torch.error),
        'CUDA of torch': torch.result.get('cuda') or 'none',
        'OpenMMLab': ' and '.join(name for name in found if found[name]) or 'none',
    }
    for name in [*found['OneDL fork'], *found['original packages']]:
        rows[f'  {name}'] = facts.installed[name]
    for name in ('numpy', 'triton', 'opencv-python', 'opencv-python-headless'):
        rows[name] = facts.installed.get(name, 'not installed')
    rows['compilers'] = '; '.join(facts.compilers.values()) or 'none'
    return [f'{name:<24}{value}' for name, value in rows.items()]


def devices(facts: Facts) -> list[str]:
    """The processor and the GPUs."""
    threads = facts.probes['torch'].result.get('threads', 'no')
    lines = [f'CPU: {facts.cpus} cores, torch uses {threads} threads']
    for gpu in facts.gpus:
        bfloat16 = 'bfloat16' if gpu['bfloat16'] else 'no bfloat16'
        lines.append(
            f'{gpu["name"]}: {gpu["gigabytes"]} GB, compute capability '
            f'{gpu["capability"]}, {bfloat16}, {gpu["error"] or "works"}'
        )
    return lines if facts.gpus else [*lines, 'no GPU that torch can use']


def backends(facts: Facts) -> list[str]:
    """Which implementations can run, and why the others cannot."""
    probe = facts.probes['backends']
    if probe.error:
        return [f'unknown: {probe.error}']
    lines = []
    for op, candidates in probe.result.items():
        able = [name for name, reason in candidates if reason is None]
        lines.append(f'{op:<24}{", ".join(able)}')
        lines += [f'  {name} cannot: {reason}' for name, reason in candidates if reason]
    return lines


def trap_lines(findings: list[Finding]) -> list[str]:
    """The traps that apply, with their fixes, and then the names of the others."""
    lines = []
    for finding in findings:
        if finding.detail is not None:
            lines.append(f'[{LABELS[finding.level]}] {finding.title}')
            lines.append(f'       here: {finding.detail}')
            lines.append(f'       fix:  {finding.fix}')
    clear = [finding for finding in findings if finding.detail is None]
    return lines + [f'[ ok ] not here: {finding.title}' for finding in clear]
