"""What a docstring leaves out: the shape of a tensor, an error, a parameter; read from source, without importing it."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

ERRORS = ("InputError", "WeightsError", "ResourceError")
# "(B, 3, H, W)", "(N,)", "(4h, 4w)", "(..., C)", "(1, channels, H, W)", "(2B + names, E)": numbers, letters, words and
# what is computed of them, one number or letter at least; "(width, height)" is no shape.
_SIZE = re.compile(r"\.\.\.|(?:\d+|\d*[A-Za-z]\w*)(?: ?[*/+-] ?(?:\d+|\d*[A-Za-z]\w*))*")
_PLAIN = re.compile(r"\.\.\.|\d+|\d*[A-Za-z]\d?")
_BRACKETS = re.compile(r"\(([^(),]+,[^()]*)\)")
_NO_SHAPE = re.compile(r"\b(?:scalars?|0-d|any shape|state dicts?)\b")
_SECTION = re.compile(r"^\s*Args:\s*$(.*?)(?=^\s*\w+:\s*$|\Z)", re.MULTILINE | re.DOTALL)
_CONSTRUCTORS = {"__init__", "__post_init__", "__new__", "__call__"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Part:
    """A public function, or a method with the class whose docstring speaks for it too."""

    where: str
    node: Function
    owner: ast.ClassDef | None

    @property
    def words(self) -> str:
        """Its docstring; a method's and its class's together."""
        found = [ast.get_docstring(node) for node in (self.node, self.owner) if node is not None]
        return "\n\n".join(each for each in found if each)


@dataclass(frozen=True)
class Known:
    """What holds beyond one function: `makers` word an error (its name), `promised` are methods of protocols, `helpers`
    the functions of a file, by how it calls them, with the errors that come out of them."""

    makers: Mapping[str, str]
    promised: Collection[tuple[str, ...]]
    helpers: Mapping[str, Collection[str]] = field(default_factory=dict)

    def inside(self, tree: ast.Module) -> Known:
        """The same with the functions of a file and its private methods, which may call each other."""
        own = [(node.name, node) for node in tree.body if isinstance(node, _FUNCTIONS)]
        methods = (node for owner in tree.body if isinstance(owner, ast.ClassDef) for node in owner.body)
        own += [(f".{node.name}", node) for node in methods if isinstance(node, _FUNCTIONS) and _is_private(node.name)]
        found, before = self, None
        while found != before:
            helpers: dict[str, set[str]] = {}
            for name, node in own:
                if errors := _raised(node, found):
                    helpers.setdefault(name, set()).update(errors)
            before, found = found, replace(self, helpers=helpers)
        return found


def faults(sources: Mapping[str, str]) -> list[str]:
    """One line per thing that a public docstring leaves out, as "file: name: what", in the order of the files.

    `sources` maps file names to their text. Together, because a file may raise what another one words.
    """
    trees = {name: ast.parse(text) for name, text in sources.items()}
    makers = {
        node.name: error
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, _FUNCTIONS)
        for error in ERRORS
        if node.returns is not None and ast.unparse(node.returns) == error
    }
    known = Known(makers, {method for tree in trees.values() for method in _promised(tree)})
    found = []
    for name, tree in trees.items():
        raises = any(word in sources[name] for word in (*ERRORS, *makers))
        found += [f"{name}: {fault}" for fault in _file(tree, known.inside(tree) if raises else known)]
    return found


def _promised(tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """The documented methods of a file's protocols: their words hold for whoever implements them."""
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef) and "Protocol" in map(ast.unparse, owner.bases):
            for node in owner.body:
                if isinstance(node, _FUNCTIONS) and ast.get_docstring(node):
                    yield _signature(node)


def _is_private(name: str) -> bool:
    return name.startswith("_") and name not in _CONSTRUCTORS


def _signature(node: Function) -> tuple[str, ...]:
    """Name and parameters."""
    return (node.name, *(each.arg for each in _arguments(node)))


def _file(tree: ast.Module, known: Known) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, _FUNCTIONS) and not node.name.startswith("_"):
            yield from _function(Part(node.name, node, None), known)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _class(node, known)


def _class(owner: ast.ClassDef, known: Known) -> Iterator[str]:
    words = ast.get_docstring(owner) or ""
    if not words:
        yield f"{owner.name}: no docstring"
    for node in owner.body:
        if isinstance(node, ast.AnnAssign) and _has_tensor(node.annotation) and not gives_shape(words):
            yield f"{owner.name}.{ast.unparse(node.target)}: no shape"
        elif isinstance(node, _FUNCTIONS) and (node.name in _CONSTRUCTORS or not node.name.startswith("_")):
            yield from _function(Part(f"{owner.name}.{node.name}", node, owner), known)


def _function(part: Part, known: Known) -> Iterator[str]:
    node = part.node
    written = ast.get_docstring(node)
    inherited = part.owner is not None and _signature(node) in known.promised
    if not written and node.name not in _CONSTRUCTORS and not inherited:
        yield f"{part.where}: no docstring"
    arguments = _arguments(node)
    has_tensor = any(_has_tensor(each) for each in (node.returns, *(argument.annotation for argument in arguments)))
    if has_tensor and not gives_shape(part.words):
        yield f"{part.where}: no shape"
    # A constructor's errors are the class's, which may also say for all methods what its helpers raise.
    errors = set() if _is_command(node) else _raised(node, known)
    alone = _raised(node, replace(known, helpers={})) if errors else errors
    for error in sorted(errors):
        of_class = error not in alone or node.name in _CONSTRUCTORS
        if not re.search(rf"\b{error}\b", part.words if of_class else written or ""):
            yield f"{part.where}: raises {error} unsaid"
    section = _SECTION.search(written or "")
    for each in arguments:
        named = section is None or re.search(rf"^\s*\*{{0,2}}{each.arg}:", section[1], re.MULTILINE)
        if not named and each.arg not in ("self", "cls"):
            yield f"{part.where}: Args leave out {each.arg}"


def _is_command(node: Function) -> bool:
    """Whether its docstring is help for a command line, where every error is an exit code."""
    return node.name == "main" or any(re.search(r"\.command\b", ast.unparse(each)) for each in node.decorator_list)


def _arguments(node: Function) -> list[ast.arg]:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return every + [each for each in (node.args.vararg, node.args.kwarg) if each is not None]


def gives_shape(words: str) -> bool:
    """Whether a text holds a shape in brackets, or says why there is none: a scalar, any shape, a state dict."""
    for inside in _BRACKETS.findall(re.sub(r"\blen\((\w+)\)", r"\1", words)):
        sizes = [each.strip() for each in inside.removesuffix(",").split(",")]
        plain = any(_PLAIN.fullmatch(part) for each in sizes for part in re.split(r" ?[*/+-] ?", each))
        if plain and all(_SIZE.fullmatch(each) for each in sizes):
            return True
    return _NO_SHAPE.search(words) is not None


def _has_tensor(annotation: ast.expr | None) -> bool:
    return annotation is not None and re.search(r"\bTensor\b", ast.unparse(annotation)) is not None


def _raised(node: ast.AST, known: Known) -> set[str]:
    """The errors that come out of a body: by name, from a function that words one, from a helper; not those caught.

    Functions inside it do not count.
    """
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Try):
            tried = _raised(ast.Module(child.body, []), known)
            found |= tried - _caught(child) | _raised(ast.Module([*child.orelse, *child.finalbody], []), known)
            found |= {error for handler in child.handlers for error in _raised(handler, known)}
        elif not isinstance(child, (*_FUNCTIONS, ast.Lambda, ast.ClassDef)):
            found |= _of_node(child, known) | _raised(child, known)
    return found


def _of_node(node: ast.AST, known: Known) -> set[str]:
    if isinstance(node, ast.Raise) and node.exc is not None:
        name = _called(node.exc.func if isinstance(node.exc, ast.Call) else node.exc).removeprefix(".")
        return {name} & set(ERRORS) | {known.makers[name] for name in {name} & known.makers.keys()}
    return set(known.helpers.get(_called(node.func), ())) if isinstance(node, ast.Call) else set()


def _caught(node: ast.Try) -> set[str]:
    """What its handlers name and do not raise again."""
    return {
        name
        for handler in node.handlers
        if handler.type is not None
        if not any(isinstance(each, ast.Raise) and each.exc is None for each in handler.body)
        for name in re.findall(r"\w+", ast.unparse(handler.type))
    }


def _called(node: ast.expr) -> str:
    """As in the source: "find" of a function, ".find" of a method."""
    return f".{node.attr}" if isinstance(node, ast.Attribute) else ast.unparse(node)
