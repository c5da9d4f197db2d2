"""Mistakes to plant in the template: what each changes, and which check has to catch it."""


def resource(template, name):
    return template["Resources"][name]


def properties(template, name):
    return resource(template, name)["Properties"]


def stream(template):
    return properties(template, "Invalidator")["Events"]["Stream"]["Properties"]


def statement(template, sid):
    """A statement of the function's role, wherever a condition puts it."""
    for each in properties(template, "InvalidatorRole")["Policies"][0]["PolicyDocument"]["Statement"]:
        for option in each.get("Fn::If", [each]):
            if isinstance(option, dict) and option.get("Sid") == sid:
                return option
    raise KeyError(sid)


def remove(mapping, key):
    """Removes what has to be there: a mistake that changes nothing is a mistake of its own."""
    del mapping[key]


def put(mapping, key, value):
    """Sets what has to be different."""
    if key in mapping and mapping[key] == value:
        raise ValueError(f"{key} is {value} already")
    mapping[key] = value


def swap(mapping, key, old, new):
    """Replaces a part of a text that has to be there."""
    if old not in mapping[key]:
        raise ValueError(f"{old} is not in {key}")
    mapping[key] = mapping[key].replace(old, new)


PLANTED = {
    # The function and its sources.
    "the build method is forgotten": (
        "built_by_cargo_lambda", lambda t: remove(resource(t, "Invalidator"), "Metadata")),
    "the binary is not named": (
        "built_by_cargo_lambda", lambda t: remove(resource(t, "Invalidator")["Metadata"]["BuildProperties"], "Binary")),
    "the code is taken from the workspace's root": (
        "built_by_cargo_lambda", lambda t: put(properties(t, "Invalidator"), "CodeUri", "..")),
    "the runtime is a managed one": (
        "built_by_cargo_lambda", lambda t: put(properties(t, "Invalidator"), "Runtime", "provided.al2")),
    "only one architecture": (
        "both_architectures", lambda t: put(t["Parameters"]["Architecture"], "AllowedValues", ["arm64"])),
    "records are kept for ever": (
        "record_age_is_bounded", lambda t: put(t["Parameters"]["MaximumRecordAge"], "MinValue", -1)),
    "no maximum record age": (
        "record_age_is_bounded", lambda t: remove(stream(t), "MaximumRecordAgeInSeconds")),
    "a record age under a minute": (
        "record_age_is_bounded", lambda t: put(stream(t), "MaximumRecordAgeInSeconds", 30)),
    "no maximum of retries": ("retries_are_finite", lambda t: remove(stream(t), "MaximumRetryAttempts")),
    "endless retries by parameter": (
        "retries_are_finite", lambda t: put(t["Parameters"]["MaximumRetries"], "MinValue", -1)),
    "whole batches fail": ("single_records_can_fail", lambda t: remove(stream(t), "FunctionResponseTypes")),
    "whole batches of the on-failure queue fail": (
        "single_records_can_fail",
        lambda t: remove(properties(t, "Invalidator")["Events"]["GivenUp"]["Properties"], "FunctionResponseTypes")),
    "failed batches are not split": (
        "failed_batches_are_split", lambda t: put(stream(t), "BisectBatchOnFunctionError", False)),
    "a filter that is no json": (
        "filter_is_of_event_names", lambda t: put(stream(t), "FilterCriteria", {"Filters": [{"Pattern": "{eventName"}]})),
    "a filter of an event that does not exist": (
        "filter_is_of_event_names",
        lambda t: put(stream(t), "FilterCriteria", {"Filters": [{"Pattern": '{"eventName":["UPDATE"]}'}]})),
    "any filter is accepted": (
        "filter_is_of_event_names", lambda t: remove(t["Parameters"]["FilterPattern"], "AllowedPattern")),
    "no on-failure destination": ("what_is_given_up_comes_back", lambda t: remove(stream(t), "DestinationConfig")),
    "given-up batches do not come back": (
        "what_is_given_up_comes_back", lambda t: remove(properties(t, "Invalidator")["Events"], "GivenUp")),
    "the bucket notifies nobody": (
        "what_is_given_up_comes_back", lambda t: remove(properties(t, "GivenUpBucket"), "NotificationConfiguration")),
    "the bucket is made before it may notify": (
        "what_is_given_up_comes_back", lambda t: remove(resource(t, "GivenUpBucket"), "DependsOn")),
    "a visibility timeout as long as the function's": (
        "queues_outlast_the_function", lambda t: put(t["Mappings"]["Visibility"]["300"], "Seconds", 300)),
    "no dead-letter queue": ("queues_outlast_the_function", lambda t: remove(properties(t, "GivenUp"), "RedrivePolicy")),
    "a queue without encryption": (
        "queues_keep_what_they_got", lambda t: put(properties(t, "ParkQueue"), "SqsManagedSseEnabled", False)),
    "what was written before is missed": (
        "stream_is_the_tables", lambda t: put(t["Parameters"]["StartingPosition"], "Default", "LATEST")),
    "the new table is deleted with the stack": (
        "new_table_is_kept", lambda t: put(resource(t, "Table"), "DeletionPolicy", "Delete")),
    "parked records go to the on-failure queue": (
        "parked_records_are_kept",
        lambda t: put(properties(t, "Invalidator")["Environment"]["Variables"], "RINGTIDE_PARK_TO", {"Ref": "GivenUp"})),
    # The cache.
    "another engine": ("engine_is_valkey", lambda t: put(properties(t, "Ring2Group"), "Engine", "redis")),
    "another engine's serverless cache": (
        "engine_is_valkey", lambda t: put(properties(t, "ServerlessCache"), "Engine", "redis")),
    "no encryption in transit": (
        "cache_is_encrypted", lambda t: put(properties(t, "ClusterGroup"), "TransitEncryptionEnabled", False)),
    "no encryption at rest": (
        "cache_is_encrypted", lambda t: remove(properties(t, "Ring6Group"), "AtRestEncryptionEnabled")),
    "a ring shard has a replica": (
        "nothing_old_comes_back", lambda t: put(properties(t, "Ring1Group"), "NumCacheClusters", 2)),
    "snapshots": ("nothing_old_comes_back", lambda t: put(properties(t, "ClusterGroup"), "SnapshotRetentionLimit", 1)),
    "a ring of one node too few": (
        "ring_is_as_large_as_asked", lambda t: put(t["Conditions"], "Ring6", {"Fn::Equals": ["a", "b"]})),
    "a user who may do everything": (
        "users_are_least_privileged", lambda t: swap(t["Mappings"]["Commands"]["Reader"], "Allowed", "+ping", "+@all")),
    "a user who may flush": (
        "users_are_least_privileged",
        lambda t: swap(t["Mappings"]["Commands"]["Invalidator"], "Allowed", "+ping", "+ping +flushall")),
    "a user who may not publish": (
        "users_are_least_privileged",
        lambda t: swap(t["Mappings"]["Commands"]["Invalidator"], "Allowed", " +publish", "")),
    "a user who may not look for fail-overs": (
        "users_are_least_privileged",
        lambda t: swap(t["Mappings"]["Commands"]["Invalidator"], "Allowed", " +info", "")),
    "a user who may not wait for replicas": (
        "users_are_least_privileged",
        lambda t: swap(t["Mappings"]["Commands"]["InvalidatorOfRing"], "Allowed", "+wait", "+ping")),
    "a user of a cluster who may wait for replicas": (
        "users_are_least_privileged",
        lambda t: swap(t["Mappings"]["Commands"]["InvalidatorOfCluster"], "Allowed", "+asking", "+asking +wait")),
    "a reader who may not have keys tracked": (
        "users_are_least_privileged",
        lambda t: swap(t["Mappings"]["Commands"]["Reader"], "Allowed", " +client|tracking", "")),
    "a reader who may look at the server": (
        "users_are_least_privileged",
        lambda t: swap(t["Mappings"]["Commands"]["Reader"], "Allowed", "+ping", "+ping +info")),
    "a user who may not try a lease": (
        "users_are_least_privileged",
        lambda t: swap(t["Mappings"]["Commands"]["Invalidator"], "Allowed", " +pttl", "")),
    "a user who hears every channel": (
        "users_are_least_privileged",
        lambda t: swap(properties(t, "ReaderUser")["AccessString"]["Fn::Sub"], 0, "&ringtide:inbox:*", "allchannels")),
    "a user whose id is not its name": (
        "users_log_in_as_asked", lambda t: put(properties(t, "ReaderUser"), "UserName", "reader")),
    "a password in the template": (
        "users_log_in_as_asked",
        lambda t: put(properties(t, "ReaderUser")["AuthenticationMode"]["Fn::If"][2], "Passwords", ["correct-horse-battery"])),
    "a token for another cache": (
        "users_log_in_as_asked",
        lambda t: put(properties(t, "ClusterGroup"), "ReplicationGroupId", {"Fn::Sub": "${Name}-other"})),
    "the cache is open to the network": (
        "cache_is_reached_by_groups_only",
        lambda t: properties(t, "CacheSecurityGroup")["SecurityGroupIngress"].append(
            {"IpProtocol": "tcp", "FromPort": 6379, "ToPort": 6379, "CidrIp": "10.0.0.0/8"})),
    "a bucket's name that can be too long": (
        "names_are_allowed",
        lambda t: put(properties(t, "ParkBucket"), "BucketName", {"Fn::Sub": "${Name}-parked-records-of-ringtide-${AWS::AccountId}-${AWS::Region}"})),
    # Access.
    "every action of a service": (
        "no_action_is_a_wildcard", lambda t: put(statement(t, "ReadPassword"), "Action", "secretsmanager:*")),
    "reading objects anywhere": (
        "no_resource_is_a_wildcard", lambda t: put(statement(t, "ReadConfigObject"), "Resource", "*")),
    "more than network interfaces anywhere": (
        "no_resource_is_a_wildcard", lambda t: statement(t, "PlaceNetworkInterfaces")["Action"].append("ec2:RunInstances")),
    "a role that SAM generates": (
        "only_own_roles",
        lambda t: (remove(properties(t, "Invalidator"), "Role"), t["Resources"].update(Own=t["Resources"].pop("InvalidatorRole")))),
    "a managed policy": (
        "only_own_roles",
        lambda t: put(properties(t, "InvalidatorRole"), "ManagedPolicyArns", ["arn:aws:iam::aws:policy/ReadOnlyAccess"])),
    "the on-failure queue cannot be written to": (
        "function_may_do_its_work", lambda t: put(statement(t, "KeepGivenUpBatches"), "Action", ["s3:GetObject"])),
    "the cache cannot be connected to": (
        "function_may_do_its_work", lambda t: put(statement(t, "ConnectToCache"), "Action", "elasticache:DescribeUsers")),
    "readers log in as the function": (
        "readers_may_log_in",
        lambda t: put(properties(t, "ReaderPolicy")["PolicyDocument"]["Statement"][0]["Fn::If"][2], "Resource", {"Ref": "InvalidatorSecret"})),
    "a bucket that can be made public": (
        "buckets_are_closed", lambda t: remove(properties(t, "ParkBucket"), "PublicAccessBlockConfiguration")),
    "a bucket that takes plain requests": ("buckets_are_closed", lambda t: remove(t["Resources"], "GivenUpBucketPolicy")),
    # Operation.
    "a variable that sets nothing": (
        "environment_is_understood",
        lambda t: put(properties(t, "Invalidator")["Environment"]["Variables"], "RINGTIDE_VALKEY_SSL", "true")),
    "a ring that is no toml": (
        "environment_is_understood",
        lambda t: swap(
            properties(t, "Invalidator")["Environment"]["Variables"]["RINGTIDE_RING_SHARDS"]["Fn::If"][1]["Fn::If"][1]["Fn::If"][2]["Fn::If"][1],
            "Fn::Sub", "name =", "name:")),
    "logs as text": (
        "logs_are_json_and_expire", lambda t: put(properties(t, "Invalidator")["LoggingConfig"], "LogFormat", "Text")),
    "logs are kept for ever": (
        "logs_are_json_and_expire", lambda t: remove(properties(t, "InvalidatorLogs"), "RetentionInDays")),
    "an alarm of a metric that does not exist": (
        "alarms_watch_what_exists", lambda t: put(properties(t, "GapsAlarm"), "MetricName", "ringtide_gap_total")),
    "nobody watches the iterator's age": ("alarms_watch_what_exists", lambda t: remove(t["Resources"], "LaggingAlarm")),
    "an alarm tells nobody": ("alarms_watch_what_exists", lambda t: remove(properties(t, "ParkedAlarm"), "AlarmActions")),
    "a dashboard of a metric that does not exist": (
        "dashboard_shows_what_exists",
        lambda t: swap(properties(t, "Overview")["DashboardBody"], "Fn::Sub", "ringtide_pipeline_records_total", "records_total")),
    "a dashboard that is no json": (
        "dashboard_shows_what_exists", lambda t: swap(properties(t, "Overview")["DashboardBody"], "Fn::Sub", "] }", "]")),
    "an output is forgotten": ("readers_are_told_everything", lambda t: remove(t["Outputs"], "ReaderSecurityGroupId")),
    "a parameter without a description": (
        "everything_is_described", lambda t: remove(t["Parameters"]["BatchSize"], "Description")),
    "a queue that is always created": ("minimal_is_minimal", lambda t: remove(resource(t, "ParkQueue"), "Condition")),
}

# What cfn-lint catches on the expanded template, and only there: planted together, each found by its own check.
FOR_THE_LINTER = {
    "a property that does not exist": ("E3002", lambda t: put(properties(t, "GivenUp"), "VisibilityTimeoutSeconds", 1)),
    "a reference to nothing": ("E6101", lambda t: put(t["Outputs"]["LogGroup"], "Value", {"Ref": "Logs"})),
    "a condition that does not exist": ("E3015", lambda t: put(resource(t, "ParkQueue"), "Condition", "ParkedInQueue")),
    "a resource that may not be there": ("W1001", lambda t: put(t["Outputs"]["TableStreamArn"], "Value", {"Ref": "ParkBucket"})),
    "resources that wait for each other": (
        "E3004", lambda t: put(resource(t, "GivenUpFromBucket"), "DependsOn", "GivenUpBucket")),
    "a parameter that nobody uses": ("W2001", lambda t: put(t["Parameters"], "Unused", {"Type": "String", "Default": "x"})),
    "a retention that CloudWatch does not have": (
        "E3030", lambda t: put(properties(t, "InvalidatorLogs"), "RetentionInDays", 31)),
}

FOR_SAMCONFIG = {
    "another template": ('template_file = "infra/template.yaml"', 'template_file = "template.yaml"'),
    "no leave to create roles": ('capabilities = "CAPABILITY_IAM"', ""),
    "no name": ('stack_name = "ringtide"', ""),
}
