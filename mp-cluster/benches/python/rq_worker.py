"""A worker of RQ that serves the queue at a Unix socket."""

import logging
import sys

import redis
import rq

connection = redis.Redis(unix_socket_path=sys.argv[1])
worker = rq.SimpleWorker([rq.Queue(connection=connection)], connection=connection)
worker.work(logging_level=logging.ERROR)
