"""A test of the tests: every mistake that is planted has to be caught, by the check that is there for it."""

import copy
import unittest

from lint import EMPTY_DEFAULTS, lint
from operation_rules import samconfig
from parameter_sets import ACCEPTED
from planted import FOR_SAMCONFIG, FOR_THE_LINTER, PLANTED
from stack import ROOT, Stack, expand, read
from test_template import RULES

SOURCE = read()
BY_NAME = {rule.__name__: rule for rule in RULES}


def caught(template, catcher):
    """Tells whether a rule finds something, under any set of parameters."""
    expanded = expand(template)
    return any(list(BY_NAME[catcher](Stack(template, given, expanded))) for given in ACCEPTED.values())


class PlantedMistakes(unittest.TestCase):
    def test_each_is_caught_by_its_rule(self):
        for name, (catcher, plant) in PLANTED.items():
            with self.subTest(name):
                template = copy.deepcopy(SOURCE)
                plant(template)
                self.assertTrue(caught(template, catcher), f"{catcher} does not catch it")

    def test_every_rule_catches_one(self):
        self.assertEqual(BY_NAME.keys() - {catcher for catcher, _ in PLANTED.values()}, set())

    def test_the_linter_catches_each_of_its_own(self):
        template = copy.deepcopy(SOURCE)
        for _, plant in FOR_THE_LINTER.values():
            plant(template)
        found = {finding.split()[0] for finding in lint(expand(template), [EMPTY_DEFAULTS])}
        for name, (check, _) in FOR_THE_LINTER.items():
            with self.subTest(name):
                self.assertIn(check, found)

    def test_mistakes_in_samconfig_are_caught(self):
        text = (ROOT / "samconfig.toml").read_text()
        for name, (right, wrong) in FOR_SAMCONFIG.items():
            with self.subTest(name):
                self.assertIn(right, text)
                self.assertNotEqual(list(samconfig(text.replace(right, wrong))), [])


if __name__ == "__main__":
    unittest.main()
