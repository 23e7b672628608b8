"""Who PostgreSQL runs as, and where its programs and data lie. It refuses to run as root.

Nothing outside the data folder changes, but for the last resort below, which says so in a note.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ottoai.embedded.folder import make_folder
from ottoai.embedded.process import EmbeddedServerError, works

NOBODY = 65534
# A user namespace in which root is called nobody: PostgreSQL is content, files stay root's.
RENAMED = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
# Where that is refused (many containers): really become nobody.
DROPPED = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
LAST_RESORT = Path("/var/lib")


@dataclass(frozen=True, slots=True)
class Home:
    """Where PostgreSQL lives (`package`: its programs, `data`: its database) and how to run it (`prefix`)."""

    package: Path
    data: Path
    prefix: tuple[str, ...] = ()
    owner: int | None = None  # whom new folders are given to, when that is not ourselves
    notes: tuple[str, ...] = ()

    def program(self, name: str) -> Path:
        """One of PostgreSQL's programs."""
        return self.package / "pginstall" / "bin" / name

    def make(self, path: Path) -> None:
        """Make a folder for the user PostgreSQL runs as."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.owner is not None:
            os.chown(path, self.owner, self.owner)

    def usable(self) -> bool:
        """Whether its user can run the programs and work in the data's place."""
        run = works([*self.prefix, str(self.program("postgres")), "--version"])
        return run and works([*self.prefix, "test", "-x", str(self.data.parent)])


def choose_home(data_dir: Path, package: Path) -> Home:
    """The first of the ways above that works here."""
    data = data_dir / "postgres"
    if os.geteuid() != 0:
        return Home(package, data)
    renamed = Home(package, data, RENAMED)
    if _owner(data) in (None, 0) and renamed.usable():
        return renamed
    # Nobody must get through the data folder to its own database; what else is in there stays closed to it.
    inner = data_dir / "nobody"
    dropped = Home(package, inner / "postgres", DROPPED, NOBODY)
    data_dir.chmod(0o711)
    dropped.make(inner)
    if dropped.usable():
        return dropped
    inner.rmdir()
    data_dir.chmod(0o700)
    return _last_resort(data_dir, package)


def _owner(path: Path) -> int | None:
    return path.stat().st_uid if path.exists() else None


def _last_resort(data_dir: Path, package: Path) -> Home:
    """Copy the programs, with their libraries, to a place every user can reach, and keep the database there."""
    name = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    root = LAST_RESORT / f"ottoai-{name}"
    root.mkdir(mode=0o755, exist_ok=True)
    copy = root / package.name
    if not copy.exists():
        libraries = package.with_name(package.name + ".libs")
        shutil.copytree(libraries, root / libraries.name, dirs_exist_ok=True)
        draft = root / f"{package.name}.new"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(package, draft)
        draft.replace(copy)
    note = f"PostgreSQL's data lies in {root}: it must not run as root, and no other user can reach {data_dir}."
    home = Home(copy, root / "data" / "postgres", DROPPED, NOBODY, (note,))
    home.make(home.data.parent)
    if not home.usable():
        raise EmbeddedServerError(
            "PostgreSQL cannot run as root, and neither `unshare --user` nor `setpriv --reuid` works here. "
            "Run this as an ordinary user, or set DATABASE_URL."
        )
    make_folder(data_dir)
    return home
