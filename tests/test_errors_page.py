"""Messages that docs/errors.md quotes of this package are those that it prints."""

import ast
import re

import pytest
from pages import ROOT

PAGE = (ROOT / 'docs/errors.md').read_text()
# begins of messages of other packages, which their authors may change
OTHERS = (
    'No module named',
    'MMCV==',
    'Python.h',
    'operator torchvision',
    'libGL',
    'module compiled',
    'Weights only',
    'Target …',
    'torch.',
    '… is not in the mmdet',
    'expected scalar type',
)
QUOTED = [
    message
    for message in re.findall(r'^\| `([^`]+)`', PAGE, re.M)
    if not message.startswith(OTHERS)
]


def said() -> list[str]:
    """Every text of the package, with … for what is put in."""
    texts = []
    for path in (ROOT / 'mmssm').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    ''.join(
                        str(part.value) if isinstance(part, ast.Constant) else '…'
                        for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


SAID = said()


@pytest.mark.parametrize('message', QUOTED)
def test_a_quoted_message_is_one(message):
    parts = [part for part in re.split(r'\s*…\s*', message) if part]
    texts = [text for text in SAID if all(part in text for part in parts)]
    pattern = re.compile(r'[\s\S]*?'.join(map(re.escape, parts)))
    assert any(pattern.search(text) for text in texts), message


def test_there_are_messages():
    assert len(QUOTED) >= 20
