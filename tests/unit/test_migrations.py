"""Applied migrations are history: a change to one is a new file. None may stop or break the processes that run while it
is applied, which are those of the version before (docs/DEPLOYMENT.md, Migrations): squawk looks for that.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from ottoai.db import sql_folder

LAST_UNCHECKED = "0020_failing"  # those up to here were applied everywhere before there was this rule
EXCLUDED = {
    "require-lock-timeout": "`python -m ottoai migrate` sets it, and tries again",
    "require-statement-timeout": "what is slow and locks is refused by the rules that are left",
    "prefer-robust-stmts": "a file is one transaction, and is applied once",
    "prefer-bigint-over-int": "small numbers are small: attempts, seconds, HTTP status",
    "prefer-bigint-over-smallint": "likewise",
}

CHECKSUMS = {
    "0001_foundation": "b73d9e4774b9e833b162e444cce844825b586498563e6d2084c3f9ff8d957633",
    "0002_revocations": "cb7740956dff9fc6d6ead03fce2280aa93422bf160eddf2a5fe411305b081663",
    "0003_logs": "60ac18adb49472a0d810a797a59449ed9a53a6af76fd7aee22488fbc3e3745fd",
    "0004_texts": "ff2e500acedad6e02d1f6f431a3e728f29daf1bc2bddb148f0968a0ddb162bc9",
    "0005_reconcile": "875d4549218d50d2672912275665d09cf3c1fe8df5b6ae2adb71c0af1688e9ab",
    "0006_users": "93015a04d872053fb5bfe7378c747e9fa6213630bbe79c66fca335842c581eaa",
    "0007_ingestion": "e1224c64128948f23c867afd3343cf0db8ef32845bb31083c74f1b3582fc6585",
    "0008_privacy": "60d7a26cac79af4059bc85089117804f5c88e9f4b9e24eada931be9cc3da9f48",
    "0009_rescue": "caf9273f2137a159d649286ea09c4ae70294b0e8037cd8203b96de5411a0350a",
    "0010_api": "7266e93b001668de2aa9279232288b3c7125d56deb3a0f0d41f3f32a5c621622",
    "0011_takeover": "102049941f73e05b62ed33ba3278cec75b973ccd7547c13d3306ac7f23391f24",
    "0012_lists": "cd69fb55ac8a4e7018f970e66abac404db04af6d1b82b8c1d75f4dd57daebdba",
    "0013_named": "41c6b295d16173ca7b99047185a7f5380fd0bd518a7f0866079b3b6e5876fc1a",
    "0014_turns": "f037ff5022ce11819fb60fea7cebf87a1c5c34f2a03f470375c80ad7da01fa1d",
    "0015_recaps": "6bf6705012c56a1884c923e7df525118f8a7fdab8b692d9f15f7276815fbb026",
    "0016_followed": "f81eba164a6093fffccbc00e2a02adc8beaaf178d4a8a58b62898eeae5ccaf5f",
    "0017_erased": "58b5f6ddb7f06a66f7db042903cc9ae853ebc82bfbcf949b16dcd8fd923c9eb0",
    "0018_ops": "d41bbec7d27967e69295349fc9d966a42a3aef8969305b68ae9d9db88386e1a2",
    "0019_alert_quiet": "01d83b4eb2889d58960b04a2c3e4c7a6a0423a58ae62f0ca6a836be941d737ca",
    "0020_failing": "474a0d3740b7d3f37efce4563c8aa8c8299eb730fb6b34c74e989b87fb960967",
    "0021_probes": "5062ca79752b1bfeea494c17c30275be05e5fed730e9dc36d922ac735f7060be",
}


def test_no_applied_migration_was_edited():
    found = {
        path.stem: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((sql_folder() / "migrations").glob("*.sql"))
    }
    assert found == CHECKSUMS, "add a new migration instead; for a new one, note its checksum here"


def problems(path: Path) -> str:
    """What squawk says against a migration."""
    alone = "-- transactional: false" in path.read_text()  # yoyo's word; else it makes a transaction of each file
    options = [] if alone else ["--assume-in-transaction"]
    command = [Path(sys.executable).with_name("squawk"), "--pg-version=16.0", "--reporter=gcc", *options]
    done = subprocess.run(
        [*command, f"--exclude={','.join(EXCLUDED)}", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == bool(done.stdout), done.stderr
    return done.stdout


def test_new_migrations_leave_the_old_processes_in_peace():
    paths = sorted((sql_folder() / "migrations").glob("*.sql"))
    assert "".join(problems(path) for path in paths if path.stem > LAST_UNCHECKED) == ""


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("alter table calls add column x text not null;", "adding-required-field"),
        ("alter table calls drop column note;", "ban-drop-column"),
        ("alter table calls rename column note to notes;", "renaming-column"),
        ("alter table calls alter column duration type bigint;", "changing-column-type"),
        ("alter table calls alter column note set not null;", "adding-not-nullable-field"),
        ("alter table calls add constraint noted check (note <> '');", "constraint-missing-not-valid"),
        ("alter table calls add constraint once unique (note);", "disallowed-unique-constraint"),
        ("create index calls_noted on calls (note);", "require-concurrent-index-creation"),
        ("drop table calls;", "ban-drop-table"),
    ],
)
def test_what_would_stop_or_break_them_is_refused(tmp_path, sql, rule):
    file = tmp_path / "0099_new.sql"
    file.write_text(sql)
    assert rule in problems(file)


@pytest.mark.parametrize(
    "sql",
    [
        "alter table calls add column x text, add column y integer not null default 0;",
        "create table notes (id bigint primary key, note text not null);\ncreate index noted on notes (note);",
        "alter table calls add constraint noted check (note <> '') not valid;",
        "-- transactional: false\nset lock_timeout = 0;\ncreate index concurrently calls_noted on calls (note);",
    ],
)
def test_what_they_do_not_notice_is_not(tmp_path, sql):
    file = tmp_path / "0099_new.sql"
    file.write_text(sql)
    assert problems(file) == ""
