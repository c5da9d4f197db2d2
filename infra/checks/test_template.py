"""The SAM template under every kind of deployment. `python -m unittest discover -s infra/checks`"""

import shutil
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import access_rules
import cache_rules
import operation_rules
import stream_rules
from lint import EMPTY_DEFAULTS, lint
from parameter_sets import ACCEPTED, REFUSED
from stack import ROOT, Stack, expand, read, violations

RULES = stream_rules.RULES + cache_rules.RULES + access_rules.RULES + operation_rules.RULES
SOURCE = read()
EXPANDED = expand(SOURCE)


def stacks():
    for name, given in ACCEPTED.items():
        yield name, Stack(SOURCE, given, EXPANDED)


class Template(unittest.TestCase):
    def test_every_kind_of_deployment_is_accepted(self):
        for name, given in ACCEPTED.items():
            with self.subTest(name):
                self.assertEqual(violations(SOURCE, given), [])

    def test_what_cannot_work_is_refused_before_anything_is_created(self):
        for name, given in REFUSED.items():
            with self.subTest(name):
                self.assertNotEqual(violations(SOURCE, given), [])

    def test_every_rule_holds_under_every_set(self):
        for name, stack in stacks():
            for rule in RULES:
                with self.subTest(f"{rule.__name__}: {name}"):
                    self.assertEqual(list(rule(stack)), [])

    def test_samconfig_points_at_the_template(self):
        self.assertEqual(list(operation_rules.samconfig((ROOT / "samconfig.toml").read_text())), [])

    def test_the_expanded_template_lints(self):
        self.assertEqual(lint(EXPANDED, [EMPTY_DEFAULTS]), [])

    def test_every_deployment_lints(self):
        for name, stack in stacks():
            with self.subTest(name):
                self.assertEqual(lint(stack.template()), [])

    def test_every_resource_and_output_is_created_by_some_set(self):
        resources, outputs = set(), set()
        for _, stack in stacks():
            resources |= stack.resources.keys()
            outputs |= stack.outputs.keys()
        self.assertEqual(set(EXPANDED["Resources"]) - resources, set())
        self.assertEqual(set(EXPANDED["Outputs"]) - outputs, set())


@unittest.skipUnless(shutil.which("valkey-server"), "valkey-server is not installed")
class AccessStrings(unittest.TestCase):
    """A server takes the users' access strings, and lets them do what they need and nothing else."""

    def setUp(self):
        self.home = tempfile.TemporaryDirectory()
        self.socket = str(Path(self.home.name) / "valkey.sock")
        self.server = subprocess.Popen(
            ["valkey-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no"],
            cwd=self.home.name, stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while self.ask("PING") != "PONG":
            self.assertLess(time.monotonic(), deadline, "valkey-server does not answer")
            time.sleep(0.02)

    def tearDown(self):
        self.server.terminate()
        self.server.wait()
        self.home.cleanup()

    def ask(self, *words):
        done = subprocess.run(["valkey-cli", "-s", self.socket, *words], capture_output=True, text=True, check=False)
        return (done.stdout + done.stderr).strip()

    def test_a_server_takes_them_and_they_do_what_they_say(self):
        stack = Stack(SOURCE, ACCEPTED["ring of six"], EXPANDED)
        users = {
            name: resource["Properties"]["AccessString"]
            for name, resource in stack.of_type("AWS::ElastiCache::User").items()
        }
        for name, access in users.items():
            self.assertEqual(self.ask("ACL", "SETUSER", name, *access.split()), "OK", access)
        both = [
            ("GET", "product:1"),
            ("SET", "lock:{product:1}", "x"),
            ("EVALSHA", "0", "1", "product:1"),
            ("SCRIPT", "LOAD", "return 1"),
            ("PUBLISH", "ringtide:inbox:1", "x"),
            ("PTTL", "lock:{product:1}"),
            ("EXISTS", "product:1", "lock:{product:1}"),
            ("GETRANGE", "product:1", "0", "3"),
            ("SETRANGE", "product:1", "0", "x"),
            ("SCAN", "0"),
            ("PING",),
            ("HELLO", "3"),
        ]
        neither = [("GET", "user:1"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("PUBLISH", "news", "x"), ("KEYS", "*")]
        for name in users:
            for command in both:
                self.assertEqual(self.ask("ACL", "DRYRUN", name, *command), "OK", command)
            for command in neither:
                self.assertNotEqual(self.ask("ACL", "DRYRUN", name, *command), "OK", command)
        reader = [("SUBSCRIBE", "ringtide:inbox:1"), ("CLIENT", "TRACKING", "ON"), ("APPEND", "lock:{product:1}", "x")]
        invalidator = [
            ("TIME",),
            ("INFO", "server", "replication"),
            ("WAIT", "1", "100"),
            ("PUBLISH", "ringtide:inbox:replicas", ""),
        ]
        for name, other, commands in [
            ("ReaderUser", "InvalidatorUser", reader),
            ("InvalidatorUser", "ReaderUser", invalidator),
        ]:
            for command in commands:
                self.assertEqual(self.ask("ACL", "DRYRUN", name, *command), "OK", command)
                if command[0] != "PUBLISH":
                    self.assertNotEqual(self.ask("ACL", "DRYRUN", other, *command), "OK", command)


if __name__ == "__main__":
    unittest.main()
