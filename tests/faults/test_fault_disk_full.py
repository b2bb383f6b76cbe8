"""No room on a disk: the database's, and the one that a worker logs to. Room is taken away by RLIMIT_FSIZE."""

from __future__ import annotations

import contextlib
import errno
import os
import resource

import psutil
import pytest

from sandbox.servers.postgres import PostgresServer
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import assert_paid_once, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

PAYOUTS = 20
MEBIBYTE = 1024 * 1024


def take_room_away(process_id: int, bytes_max: int) -> None:
    """No process of this family may write past `bytes_max` of any file, from now on; new ones inherit it."""
    parent = psutil.Process(process_id)
    limit = (bytes_max, resource.RLIM_INFINITY)
    # PostgreSQL refuses root and runs as another user, who alone may limit it.
    helper = os.fork()
    if helper == 0:
        error_number = errno.EINVAL
        try:
            os.setgid(parent.gids().real)
            os.setuid(parent.uids().real)
            # The parent first: whoever is born after the children were listed has inherited its limit.
            resource.prlimit(process_id, resource.RLIMIT_FSIZE, limit)
            for child in parent.children(recursive=True):
                # A session or a vacuum may end between the look and the limit; it writes no more either.
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, limit)
            error_number = 0
        except OSError as error:
            error_number = error.errno or errno.EINVAL
        finally:
            os._exit(error_number)
    _, status = os.waitpid(helper, 0)
    error_number = os.waitstatus_to_exitcode(status)
    assert error_number == 0, f"the limit could not be set: {os.strerror(error_number)}"


def test_the_databases_disk_is_full(own_postgres: PostgresServer, make_pipeline: MakePipeline) -> None:
    """K5, L4, L5, P1, P2: a log that cannot grow ends PostgreSQL; nobody is rejected for it, and all are paid later."""
    pipeline = make_pipeline(own_postgres)
    worker = pipeline.worker("writer").wait_until_assigned()
    first = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    pipeline.wait_all(first)
    process_id = own_postgres.process_id
    assert process_id is not None
    take_room_away(process_id, MEBIBYTE)
    second = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    until("the pause", lambda: "database" in worker.health().get("paused_for", ()))
    own_postgres.kill()
    own_postgres.restart()
    pipeline.wait_all(first + second)
    assert_paid_once(pipeline, first + second)
    pipeline.supervise()  # a full disk ends no worker; only K5's publish that stays unconfirmed may
    assert pipeline.events("payout_dead_letters") == []


def test_the_disk_of_the_log_is_full(make_pipeline: MakePipeline) -> None:
    """P8: a worker that can log no more works on; its exit and its metrics still speak."""
    pipeline = make_pipeline()
    worker = pipeline.worker("silent").wait_until_assigned()
    process_id = worker.process.pid
    assert process_id is not None
    take_room_away(process_id, worker.log_path.stat().st_size)
    length = worker.log_path.stat().st_size
    payout_ids = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    pipeline.wait_all(payout_ids)
    assert_paid_once(pipeline, payout_ids)
    assert worker.log_path.stat().st_size == length, "nothing could be written, as this test means it"
    assert worker.terminate() == 0
