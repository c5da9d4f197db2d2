"""What roles and policies allow."""

from stack import text_of

# Services that know no narrower resource, and what is asked of them.
ANY_RESOURCE = {
    "PlaceNetworkInterfaces": {
        "ec2:CreateNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:DeleteNetworkInterface",
        "ec2:AssignPrivateIpAddresses",
        "ec2:UnassignPrivateIpAddresses",
    },
    "WriteTraces": {"xray:PutTraceSegments", "xray:PutTelemetryRecords"},
}


def listed(value):
    return value if isinstance(value, list) else [value]


def statements(stack):
    """Every statement that allows something, with the resource that carries it."""
    for name, resource in stack.resources.items():
        properties = resource.get("Properties", {})
        documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
        for document in documents:
            for statement in document["Statement"]:
                if statement["Effect"] == "Allow":
                    yield name, statement


def granted(stack, role, action):
    """The resources on which a role may do something."""
    return [
        text_of(resource)
        for name, statement in statements(stack)
        for resource in listed(statement["Resource"])
        if name == role and action in listed(statement["Action"])
    ]


def no_action_is_a_wildcard(stack):
    for name, statement in statements(stack):
        for action in listed(statement["Action"]):
            if "*" in action:
                yield f"{name} may {action}"
        if "NotAction" in statement or "NotResource" in statement:
            yield f"{name} may whatever is not listed"


def no_resource_is_a_wildcard(stack):
    for name, statement in statements(stack):
        actions = set(listed(statement["Action"]))
        for resource in map(text_of, listed(statement["Resource"])):
            if resource == "*" and not actions <= ANY_RESOURCE.get(statement.get("Sid"), set()):
                yield f"{name} may {sorted(actions)} anywhere"
            elif resource != "*" and ":*:" in resource:
                yield f"{name} may {sorted(actions)} on {resource}"


def only_own_roles(stack):
    if stack.of_type("AWS::IAM::Role").keys() != {"InvalidatorRole"}:
        yield "a role was generated, with what SAM takes to be needed"
    for name, role in stack.of_type("AWS::IAM::Role").items():
        if role["Properties"].get("ManagedPolicyArns"):
            yield f"{name} has managed policies, which are wider than what is needed"
    if stack.properties("Invalidator").get("Role") != {"Fn::GetAtt": ["InvalidatorRole", "Arn"]}:
        yield "the function has another role"


def function_may_do_its_work(stack):
    values = stack.values
    created = values["Cache"] != "existing"
    iam = values["Authentication"] == "iam" if created else bool(values["IamCache"])
    needs = {
        "logs:PutLogEvents": True,
        "dynamodb:GetRecords": True,
        "dynamodb:GetShardIterator": True,
        "dynamodb:DescribeStream": True,
        "dynamodb:ListStreams": True,
        "sqs:ReceiveMessage": True,
        "sqs:DeleteMessage": True,
        "sqs:GetQueueAttributes": True,
        "ssm:GetParameter": bool(values["ConfigParameter"]),
        "kms:Decrypt": bool(values["ConfigKeyArn"]),
        "elasticache:Connect": iam,
        "secretsmanager:GetSecretValue": not iam if created else bool(values["ValkeySecretArn"]),
        "ec2:CreateNetworkInterface": bool(values["SubnetIds"]),
        "xray:PutTraceSegments": values["Tracing"] == "Active",
    }
    for action, needed in needs.items():
        # Connecting needs both, the cache and the user.
        wanted = 2 if action == "elasticache:Connect" else 1
        if (len(granted(stack, "InvalidatorRole", action)) >= wanted) != needed:
            yield f"{action} is {'not ' if needed else ''}granted"
    sends = {'{"Fn::GetAtt": ["GivenUp", "Arn"]}'} if values["OnFailure"] == "sqs" else set()
    sends |= {'{"Fn::GetAtt": ["ParkQueue", "Arn"]}'} if values["Park"] == "sqs" else set()
    if set(granted(stack, "InvalidatorRole", "sqs:SendMessage")) != sends:
        yield "messages may be sent to other queues than those that take them"
    puts = {"${GivenUpBucket.Arn}/aws/lambda/*"} if values["OnFailure"] == "s3" else set()
    puts |= {"${ParkBucket.Arn}/parked/*"} if values["Park"] == "s3" else set()
    if set(granted(stack, "InvalidatorRole", "s3:PutObject")) != puts:
        yield "objects may be put elsewhere than where they belong"
    gets = {"${GivenUpBucket.Arn}/aws/lambda/*"} if values["OnFailure"] == "s3" else set()
    gets |= {f"arn:aws:s3:::{values['ConfigObject']}"} if values["ConfigObject"] else set()
    if set(granted(stack, "InvalidatorRole", "s3:GetObject")) != gets:
        yield "other objects may be read than those that are"
    connects = granted(stack, "InvalidatorRole", "elasticache:Connect")
    if iam and len(connects) == 2:
        cache, user = connects
        name = stack.properties("Invalidator")["Environment"]["Variables"]["RINGTIDE_VALKEY_IAM_CACHE"]
        if cache.split(":")[-1] != name:
            yield "the function may connect to another cache"
        if not created and user.split(":")[-1] != values["ValkeyUsername"]:
            yield "the function may connect as another user"


def readers_may_log_in(stack):
    if stack.values["Cache"] == "existing":
        return
    action = {"iam": "elasticache:Connect", "password": "secretsmanager:GetSecretValue"}[stack.values["Authentication"]]
    allowed = granted(stack, "ReaderPolicy", action)
    if not allowed or not any("Reader" in each for each in allowed) or any("Invalidator" in each for each in allowed):
        yield f"readers may log in as {allowed}"


def buckets_are_closed(stack):
    for name, bucket in stack.of_type("AWS::S3::Bucket").items():
        properties = bucket["Properties"]
        block = properties.get("PublicAccessBlockConfiguration", {})
        if len(block) != 4 or not all(value is True for value in block.values()):
            yield f"{name} can be made public"
        if "BucketEncryption" not in properties:
            yield f"{name} does not say how it is encrypted"
        if bucket.get("DeletionPolicy") != "Retain":
            yield f"{name} is deleted with the stack, which fails while it has objects"
        policies = [r["Properties"] for r in stack.of_type("AWS::S3::BucketPolicy").values()]
        guards = [
            statement
            for policy in policies
            for statement in policy["PolicyDocument"]["Statement"]
            if policy["Bucket"] == {"Ref": name} and statement["Effect"] == "Deny"
        ]
        if [g.get("Condition") for g in guards] != [{"Bool": {"aws:SecureTransport": "false"}}]:
            yield f"{name} takes requests without encryption"


RULES = [
    no_action_is_a_wildcard,
    no_resource_is_a_wildcard,
    only_own_roles,
    function_may_do_its_work,
    readers_may_log_in,
    buckets_are_closed,
]
