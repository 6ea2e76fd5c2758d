"""YAML as it was written: every scalar a string, every key once, every value with its line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from reward_benchmark.errors import BenchmarkError

Where = Sequence[int | str]
"""Keys and indices that lead to a value."""

_KEPT_TAGS = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")


class _Loader(yaml.SafeLoader):
    """Knows no other plain scalars than strings and null, and refuses a key that is there twice.

    A commit such as 0123456 or 12e4567 is a number to YAML, and `no` is false; what the file says
    goes to programs that read strings.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's way to say it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """See PyYAML, where of two equal keys the last one wins silently."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} is there twice, first in line {lines[key.value]}",
                        problem_mark=key.start_mark,
                    )
                lines[key.value] = key.start_mark.line + 1
        return node


class YamlFile:
    """The content of a YAML file, and where in it what stands.

    Raises:
        BenchmarkError: the file is not YAML, is empty, or has a key twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
            self._root = yaml.compose(text, Loader=_Loader)
            self.content: Any = yaml.load(text, Loader=_Loader)
        except UnicodeDecodeError as error:
            raise BenchmarkError(f"{path} is not text in UTF-8: {error.reason}") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise BenchmarkError(f"{path}, line {line}: {error.problem}") from error
        except RecursionError as error:
            raise BenchmarkError(f"{path} is nested too deeply to be a list of models") from error
        except yaml.YAMLError as error:
            sentence = " ".join(str(error).split())
            raise BenchmarkError(f"{path} is not YAML: {sentence}") from error
        if self.content is None:
            raise BenchmarkError(f"{path} is empty: name at least one model")

    def error(self, where: Where, sentence: str) -> BenchmarkError:
        """An error that names the line of what is at the path, or of its nearest parent."""
        return BenchmarkError(f"{self.path}, line {self._line(where)}: {sentence}")

    def _line(self, where: Where) -> int:
        node, line = self._root, 1
        for step in where:
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in node.value if pair[0].value == step), None)
                if found is None:
                    break
                line, node = found[0].start_mark.line + 1, found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                node = node.value[step]
                line = node.start_mark.line + 1
            else:
                break
        return line
