"""The SAM template: read, expanded as CloudFormation expands it, and resolved under one set of parameters."""

import copy
import json
import logging
import os
import re
from pathlib import Path

os.environ.setdefault("AWS_DEFAULT_REGION", "eu-west-1")

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "infra" / "template.yaml"

PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::StackName": "ringtide",
    "AWS::URLSuffix": "amazonaws.com",
}
# The translator warns that nobody publishes what it counted.
logging.getLogger("samtranslator.metrics.metrics").setLevel(logging.ERROR)

NOTHING = object()
SESSION = boto3.Session(region_name="eu-west-1")
NAMES = {"AWSLambdaBasicExecutionRole": "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"}


def read(path=TEMPLATE):
    """Reads a template with its short functions written out."""
    return yaml_parse(path.read_text())


def expand(source):
    """Expands the serverless resources. The code's location is what `sam build` and `sam package` put in its place."""
    template = copy.deepcopy(source)
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://artifacts/code"
    # Names of managed policies stay names: looking them up would take an account.
    return Translator(NAMES, Parser(), boto_session=SESSION).translate(sam_template=template, parameter_values={})


def violations(source, given):
    """Tells which parameters CloudFormation would refuse, by their own constraints and by the template's rules."""
    parameters = source["Parameters"]
    found = [f"no parameter is named {name}" for name in given if name not in parameters]
    for name, parameter in parameters.items():
        value = given.get(name, parameter.get("Default"))
        if value is None:
            found.append(f"{name} is missing")
            continue
        if parameter["Type"] == "Number":
            try:
                number = float(value)
            except ValueError:
                found.append(f"{name} is no number")
                continue
            if not parameter.get("MinValue", number) <= number <= parameter.get("MaxValue", number):
                found.append(f"{name} is out of bounds")
        if "AllowedValues" in parameter and str(value) not in map(str, parameter["AllowedValues"]):
            found.append(f"{name} is not an allowed value")
        if "AllowedPattern" in parameter and not re.fullmatch(parameter["AllowedPattern"], str(value)):
            found.append(f"{name} does not match its pattern")
    values = {name: given.get(name, parameter.get("Default", "")) for name, parameter in parameters.items()}
    for name, rule in source.get("Rules", {}).items():
        if "RuleCondition" in rule and not holds(rule["RuleCondition"], values, {}):
            continue
        found += [f"rule {name}" for each in rule["Assertions"] if not holds(each["Assert"], values, {})]
    return found


def holds(expression, values, conditions):
    """Evaluates a condition's or a rule's expression."""
    if "Condition" in expression:
        return holds(conditions[expression["Condition"]], values, conditions)
    ((function, arguments),) = expression.items()
    if function == "Fn::Equals":
        left, right = (values[a["Ref"]] if isinstance(a, dict) else a for a in arguments)
        return str(left) == str(right)
    each = (holds(argument, values, conditions) for argument in arguments)
    return {"Fn::And": all, "Fn::Or": any, "Fn::Not": lambda them: not next(them)}[function](each)


class Stack:
    """A template as it is deployed with `given` parameters: conditions decided, parameters put in."""

    def __init__(self, source, given, expanded=None):
        self.source = source
        self.given = given
        self.expanded = expand(source) if expanded is None else expanded
        parameters = self.expanded["Parameters"]
        self.values = {name: given.get(name, p.get("Default", "")) for name, p in parameters.items()}
        for name, parameter in parameters.items():
            if parameter["Type"] == "Number":
                self.values[name] = int(self.values[name])
        conditions = self.expanded.get("Conditions", {})
        self.truths = {name: holds(expression, self.values, conditions) for name, expression in conditions.items()}
        self.resources = {name: self._plain(r) for name, r in self.expanded["Resources"].items() if self._wanted(r)}
        self.outputs = {name: self._plain(o) for name, o in self.expanded["Outputs"].items() if self._wanted(o)}

    def of_type(self, kind):
        """The resources of a type, by their logical ids."""
        return {name: r for name, r in self.resources.items() if r["Type"] == kind}

    def properties(self, name):
        """The properties of a resource; empty where it is not created."""
        return self.resources.get(name, {}).get("Properties", {})

    def template(self):
        """The template that is left, for a linter."""
        return {
            "AWSTemplateFormatVersion": "2010-09-09",
            "Description": self.source["Description"],
            "Resources": self.resources,
            "Outputs": self.outputs,
        }

    def _wanted(self, part):
        return self.truths[part["Condition"]] if "Condition" in part else True

    def _plain(self, part):
        part = {key: value for key, value in part.items() if key not in ("Condition", "Metadata")}
        if "DependsOn" in part:
            names = part["DependsOn"] if isinstance(part["DependsOn"], list) else [part["DependsOn"]]
            part["DependsOn"] = [name for name in names if self._wanted(self.expanded["Resources"][name])]
        return self.resolve(part)

    def resolve(self, value):
        """Carries out every function whose operands are known."""
        if isinstance(value, list):
            return [item for item in map(self.resolve, value) if item is not NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, operand),) = value.items()
            if name == "Ref" or name.startswith("Fn::"):
                return self._function(name, operand)
        resolved = {key: self.resolve(item) for key, item in value.items()}
        return {key: item for key, item in resolved.items() if item is not NOTHING}

    def _function(self, name, operand):
        if name == "Ref":
            if operand == "AWS::NoValue":
                return NOTHING
            return self.values.get(operand, PSEUDO.get(operand, {"Ref": operand}))
        if name == "Fn::If":
            return self.resolve(operand[1] if self.truths[operand[0]] else operand[2])
        if name == "Fn::Sub":
            return self._substitute(operand)
        operand = self.resolve(operand)
        if name == "Fn::FindInMap":
            table, first, second = operand
            return self.expanded["Mappings"][table][str(first)][second]
        if name == "Fn::Join" and all(isinstance(item, str) for item in operand[1]):
            return operand[0].join(operand[1])
        if name == "Fn::Split" and isinstance(operand[1], str):
            return operand[1].split(operand[0])
        if name == "Fn::Select" and isinstance(operand[1], list):
            return operand[1][int(operand[0])]
        return {name: operand}

    def _substitute(self, operand):
        text, names = (operand, {}) if isinstance(operand, str) else operand
        known = {**PSEUDO, **{k: str(v) for k, v in self.values.items()}}
        known |= {name: self.resolve(value) for name, value in names.items()}
        text = re.sub(r"\$\{([^}!]+)\}", lambda found: str(known.get(found[1], found[0])), text)
        return {"Fn::Sub": text} if re.search(r"\$\{[^}!]+\}", text) else text


def text_of(value):
    """A resolved value as one text, with what only a deployment knows left as it is written."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and "Fn::Sub" in value:
        return value["Fn::Sub"]
    if isinstance(value, dict) and "Fn::Join" in value:
        separator, items = value["Fn::Join"]
        return separator.join(map(text_of, items))
    return json.dumps(value)
