"""cfn-lint, on templates that are expanded already: on the serverless form it sees next to nothing."""

import json

from cfnlint.api import ManualArgs, lint as cfn_lint

# A parameter that is empty by default is only used where a condition says that it is not; the linter tries the default
# all the same. Templates that are resolved under a set of parameters are linted without this exception.
EMPTY_DEFAULTS = "W1030"


def lint(template, ignored=()):
    """Lints for errors and warnings; returns each as one text."""
    config = ManualArgs(regions=["eu-west-1"], ignore_checks=list(ignored))
    return [f"{m.rule.id} {m.message} ({'/'.join(map(str, m.path or []))})" for m in cfn_lint(json.dumps(template), config=config)]
