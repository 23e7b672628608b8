"""The pages of the docs: each is in the index, every link leads somewhere, the walks name what there is, of each
dependency it is said who imports it, and the log says what the operations guide quotes.
"""

import ast
import re
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!`)\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
WALKS = ("A webhook becomes an event on a screen", "A job becomes a number")
SOURCES = sorted(
    path
    for folder in ("ottoai", "jobs", "sql")
    for path in (ROOT / folder).rglob("*.*")
    if "__pycache__" not in path.parts
)


def links(page: Path) -> list[str]:
    """The relative ones."""
    found = [one or other for one, other in LINK.findall(CODE.sub("", page.read_text()))]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@cache
def anchors(page: Path) -> set[str]:
    """What can be led to in a page, as GitHub names it: its headings, and what is marked with an id."""
    text = CODE.sub("", page.read_text())
    found: dict[str, int] = {}
    names = set(re.findall(r'<a id="([^"]+)"', text))
    for heading in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    dead = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(link)
    assert dead == [], f"{page.relative_to(ROOT)} links to what is not there"


def test_every_page_is_in_the_index():
    index = DOCS / "README.md"
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in links(index)}
    missing = [
        str(page.relative_to(ROOT))
        for page in PAGES
        if page != index and not linked & {page, page.parent} - {DOCS, ROOT}
    ]
    assert missing == [], "add a line for each to docs/README.md"


def walk(title: str) -> str:
    text = (DOCS / "ARCHITECTURE.md").read_text()
    return re.split(r"^## ", text.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]


@cache
def source(path: Path) -> str:
    return path.read_text()


def there(name: str) -> bool:
    """Whether a name in backticks is one of a file, a function, a class or its method, a query, a word of the code."""
    if name.startswith(("/", "POST ", "python ")):
        return True  # addresses and commands, which other tests hold against the product
    if re.search(r"\.(py|sql)$", name):
        return any(str(path.relative_to(ROOT)).endswith(f"/{name}") or path == ROOT / name for path in SOURCES)
    whole = [path for path in SOURCES if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", source(path))]
    owner, dot, member = name.partition(".")
    if not dot:
        return bool(whole)
    declared = re.compile(
        rf"^ *(?:(?:async )?def {member}\b|class {member}\b|{member}\b.*[:=]|-- name: {member}\b)", re.MULTILINE
    )
    owners = [
        path for path in SOURCES if path.stem == owner or re.search(rf"^class {owner}\b", source(path), re.MULTILINE)
    ]
    return any(declared.search(source(path)) for path in owners) or bool(whole)


@pytest.mark.parametrize("title", WALKS)
def test_a_walk_names_what_there_is(title):
    names = re.findall(r"`([^`]+)`", walk(title))
    assert len(names) > 20
    assert [name for name in names if not there(name)] == []


@pytest.mark.parametrize("title", WALKS)
def test_a_step_names_its_file_and_what_is_in_it(title):
    """`Function` after **`file`** is declared in that file."""
    for file, name in re.findall(r"\*\*`([\w/]+\.(?:py|sql))`\*\*(?: of \w+)?,\s+`(?:\w+\.)?(\w+)`", walk(title)):
        (path,) = [path for path in SOURCES if str(path.relative_to(ROOT)) in {file, f"ottoai/{file}"}]
        assert re.search(rf"\bdef {name}\b|-- name: {name}\b", source(path)), f"{file} has no {name}"


def test_a_name_of_nothing_is_noticed():
    for name in ("no_such.py", "callrail.no_such", "Hub.no_such", "no_such_word"):
        assert not there(name)


installed = cache(packages_distributions)  # module: the packages that bring it


def importers(packages: str, folders: tuple[str, ...]) -> set[Path]:
    """Every file that imports one of these packages; "redis, hiredis" is two."""
    names = {package.partition(" ")[0].lower() for package in packages.split(", ")}
    modules = [name for name, found in installed().items() if names & {each.lower() for each in found}]
    imported = re.compile(rf"^ *(?:from|import) (?:{'|'.join(modules)})\b", re.MULTILINE)
    files = [path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py")] if modules else []
    return {path for path in files if imported.search(source(ROOT / path))}


def test_who_imports_a_package_is_said():
    """By name or by folder. What only developers need may be named where it is used without an import."""
    needed, developers = (DOCS / "DEPENDENCIES.md").read_text().split("| For development |")
    production = ("ottoai", "jobs")
    wrong = []
    for part, folders in ((needed, production), (developers, (*production, "scripts", "tests"))):
        rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", part, re.MULTILINE)
        assert len(rows) > 10
        for packages, said in rows:
            there = importers(packages, folders)
            named = [Path(name) for name in re.findall(r"`([\w/.]+)`", said)]
            silent = {path for path in there if not {path, *path.parents} & set(named)}
            idle = {name for name in named if part == needed and not any(name in {p, *p.parents} for p in there)}
            wrong += [f"{packages}: {path}" for path in sorted(silent | idle)]
    assert wrong == []


def quoted() -> list[str]:
    """The log messages that the operations guide explains."""
    table = (DOCS / "OPERATIONS.md").read_text().partition("\n| Message | Level |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


@cache
def said() -> list[str]:
    """Every text in the sources that is no docstring."""
    trees = [ast.parse(source(path)) for path in SOURCES if path.suffix == ".py"]
    docs = {id(each.value) for tree in trees for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    texts = [each for tree in trees for each in ast.walk(tree) if isinstance(each, ast.Constant)]
    return [each.value for each in texts if isinstance(each.value, str) and id(each) not in docs]


def logged(message: str) -> bool:
    """Whether the sources say it; what stands for … is put in later."""
    return any(all(piece in text for piece in message.split("…")) for text in said())


def test_the_log_says_what_the_operations_guide_quotes():
    assert len(quoted()) > 70
    assert [message for message in quoted() if not logged(message)] == []


def test_a_message_that_nobody_logs_is_noticed():
    for message in ("Component unwell", "A background loop ended", "Event … published to … sockets"):
        assert not logged(message)
