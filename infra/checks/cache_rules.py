"""The cache, its users, and how the function and readers reach it."""

import re

from facts import permissions, script_commands
from stack import text_of

SCRIPTS = {
    # The last five drop what applications invalidate themselves, and entries that cannot be read.
    "ReaderUser": (
        "lease", "extend", "fill", "release", "lock", "invalidate", "invalidate_loop", "invalidate_set", "void", "drop"),
    # The last three are called by probes and by `ringtide warm`.
    "InvalidatorUser": (
        "invalidate", "invalidate_loop", "invalidate_set", "refresh", "void", "drop", "lock", "lease", "fill", "release"),
}
# What a script calls for readers only: nobody else has an inbox to append to a lock.
NOT_CALLED = {"ReaderUser": set(), "InvalidatorUser": {"append"}}
COMMANDS = {"get", "mget", "evalsha", "eval", "script|load", "publish", "ping"}
# An inbox, key spaces that are tracked, and flushing ring shards that join; walking over the names and seeing fail-overs.
OWN_COMMANDS = {"ReaderUser": {"subscribe", "client|tracking", "scan"}, "InvalidatorUser": {"scan", "info"}}
# Where a ring shard is one server: waiting for replicas.
RING_COMMANDS = {"ReaderUser": set(), "InvalidatorUser": {"wait"}}
# Where it is a cluster: finding its nodes, following a slot that moves, and walking over all of them.
CLUSTER_COMMANDS = {
    "ReaderUser": {"cluster|slots", "asking", "cluster|nodes"},
    "InvalidatorUser": {"cluster|slots", "asking", "cluster|nodes"},
}


def groups(stack):
    """Replication groups by logical id."""
    return {name: r["Properties"] for name, r in stack.of_type("AWS::ElastiCache::ReplicationGroup").items()}


def commands_of(access):
    """What an access string allows and takes away."""
    tokens = access.split()
    return {t[1:] for t in tokens if t[0] == "+"}, {t[1:] for t in tokens if t[0] == "-"}


def engine_is_valkey(stack):
    for name, resource in stack.resources.items():
        if resource["Type"].startswith("AWS::ElastiCache::") and "SubnetGroup" not in resource["Type"]:
            if resource["Properties"].get("Engine") != "valkey":
                yield f"{name}'s engine is not valkey"
    for name, group in groups(stack).items():
        if not group["CacheParameterGroupName"].startswith("default.valkey8"):
            yield f"{name} has the parameters of another engine"


def cache_is_encrypted(stack):
    for name, group in groups(stack).items():
        if group.get("TransitEncryptionEnabled") is not True:
            yield f"{name} is not encrypted in transit"
        if group.get("AtRestEncryptionEnabled") is not True:
            yield f"{name} is not encrypted at rest"
        if group.get("TransitEncryptionMode", "required") != "required":
            yield f"{name} takes connections without encryption too"
    if stack.values["Cache"] != "existing":
        if stack.properties("Invalidator")["Environment"]["Variables"].get("RINGTIDE_VALKEY_TLS") != "true":
            yield "the function does not encrypt its connections"


def nothing_old_comes_back(stack):
    for name, group in groups(stack).items():
        if group.get("SnapshotRetentionLimit") != 0:
            yield f"{name} keeps snapshots"
        if name.startswith("Ring") and (group.get("NumCacheClusters"), group.get("AutomaticFailoverEnabled")) != (1, False):
            yield f"{name} has a replica"
    for name, cache in stack.of_type("AWS::ElastiCache::ServerlessCache").items():
        if cache["Properties"].get("SnapshotRetentionLimit") != 0:
            yield f"{name} keeps snapshots"


def ring_is_as_large_as_asked(stack):
    cache = stack.values["Cache"]
    expected = {"ring": int(stack.values["RingSize"]), "cluster": 1}.get(cache, 0)
    if len(groups(stack)) != expected:
        yield f"{len(groups(stack))} replication groups"
    if len(stack.of_type("AWS::ElastiCache::ServerlessCache")) != (cache == "serverless"):
        yield "a serverless cache too much or too little"
    shards = text_of(stack.properties("Invalidator")["Environment"]["Variables"].get("RINGTIDE_RING_SHARDS"))
    if shards != text_of(stack.outputs.get("RingShards", {}).get("Value")):
        yield "the function's ring is not the readers'"
    if cache == "ring":
        for i in range(1, expected + 1):
            if f'name = "ring-{i}", address = "${{Ring{i}Group.PrimaryEndPoint.Address}}:6379"' not in shards:
                yield f"node {i} is not in the ring"
    elif cache != "existing" and shards.count("name =") != 1:
        yield "a cluster is one ring shard"


def users_are_least_privileged(stack):
    for name, resource in stack.of_type("AWS::ElastiCache::User").items():
        user = resource["Properties"]
        access = user["AccessString"]
        allowed, taken = commands_of(access)
        kind = CLUSTER_COMMANDS if stack.values["Cache"] in ("cluster", "serverless") else RING_COMMANDS
        if not access.startswith("on ") or taken != {"@all"} or "resetchannels" not in access.split():
            yield f"{name} does not begin with nothing"
        needed = script_commands(*SCRIPTS[name]) - NOT_CALLED[name] | COMMANDS | OWN_COMMANDS[name] | kind[name]
        if allowed != needed:
            yield f"{name} may {sorted(allowed - needed)}, which nothing needs, and not {sorted(needed - allowed)}"
        if not needed <= permissions():
            yield f"{name} needs {sorted(needed - permissions())}, of which the protocol's module says nothing"
        channels = [token for token in access.split() if token[0] == "&" or token == "allchannels"]
        if channels != ["&ringtide:inbox:*"]:
            yield f"{name} reaches the channels {channels}"
        if stack.values["KeyPatterns"] not in access:
            yield f"{name} has other keys than those asked for"


def users_log_in_as_asked(stack):
    for name, resource in stack.of_type("AWS::ElastiCache::User").items():
        user = resource["Properties"]
        if user["UserId"] != user["UserName"] or user["UserId"] != user["UserId"].lower():
            yield f"{name}: authentication by IAM demands that id and name are the same, in lower case"
        mode = user.get("AuthenticationMode", {})
        if mode.get("Type") != stack.values["Authentication"] or user.get("NoPasswordRequired"):
            yield f"{name} does not log in by {stack.values['Authentication']}"
        if any("{{resolve:secretsmanager:" not in text_of(password) for password in mode.get("Passwords", [])):
            yield f"{name}'s password stands in the template"
    variables = stack.properties("Invalidator")["Environment"]["Variables"]
    by_iam, by_secret = "RINGTIDE_VALKEY_IAM_CACHE" in variables, "RINGTIDE_VALKEY_PASSWORD_SECRET" in variables
    if by_iam and by_secret:
        yield "the function logs in twice"
    if by_iam and ("RINGTIDE_VALKEY_USERNAME" not in variables or variables.get("RINGTIDE_VALKEY_TLS") != "true"):
        yield "authentication by IAM needs a user and TLS"
    if stack.values["Cache"] != "existing" and not (by_iam or by_secret):
        yield "the function does not log in"
    if stack.values["Cache"] != "existing" and by_iam:
        names = {r.get("ReplicationGroupId") for r in groups(stack).values()}
        names |= {r["Properties"]["ServerlessCacheName"] for r in stack.of_type("AWS::ElastiCache::ServerlessCache").values()}
        if names != {variables["RINGTIDE_VALKEY_IAM_CACHE"]}:
            yield "the token is made out to another cache"
        if (variables.get("RINGTIDE_VALKEY_IAM_SERVERLESS") == "true") != (stack.values["Cache"] == "serverless"):
            yield "the token is made out to another kind of cache"


def cache_is_reached_by_groups_only(stack):
    for name, resource in stack.of_type("AWS::EC2::SecurityGroup").items():
        for rule in resource["Properties"].get("SecurityGroupIngress", []):
            if "SourceSecurityGroupId" not in rule:
                yield f"{name} lets addresses in"
    for name, group in groups(stack).items():
        if group.get("SecurityGroupIds") != [{"Fn::GetAtt": ["CacheSecurityGroup", "GroupId"]}]:
            yield f"{name} is in another security group"
        if group.get("UserGroupIds") != [{"Ref": "CacheUsers"}]:
            yield f"{name} has no users"
    for name, cache in stack.of_type("AWS::ElastiCache::ServerlessCache").items():
        if cache["Properties"].get("UserGroupId") != {"Ref": "CacheUsers"}:
            yield f"{name} has no users"
    if bool(stack.given.get("SubnetIds")) != ("VpcConfig" in stack.properties("Invalidator")):
        yield "the function is not in the subnets that were given"


def names_are_allowed(stack):
    longest = "a" * 20
    for name, resource in stack.resources.items():
        bucket = resource.get("Properties", {}).get("BucketName")
        if bucket and len(bucket.replace("ringtide", longest)) > 63:
            yield f"{name}'s name can be too long"
        fixed = resource.get("Properties", {}).get("ReplicationGroupId")
        if fixed and not re.fullmatch(r"[a-z](-?[a-z0-9])*", fixed):
            yield f"{name} has no name that ElastiCache takes"


RULES = [
    engine_is_valkey,
    cache_is_encrypted,
    nothing_old_comes_back,
    ring_is_as_large_as_asked,
    users_are_least_privileged,
    users_log_in_as_asked,
    cache_is_reached_by_groups_only,
    names_are_allowed,
]
