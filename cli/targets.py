"""Commands about targets and this machine: what can be compiled for, and what is installed."""

from dataclasses import asdict

import click

from haqnas.cli.commands import group, json_option
from haqnas.cli.doctor import examine
from haqnas.cli.render import print_json, print_lines, print_table, profile_rows


@group.command("targets")
@click.argument("name", required=False)
@json_option
def targets_command(name: str | None, is_json: bool) -> None:
    """List the shipped profiles, or show one (also `host`, or your own profile.toml).

    "runs on" is the device of this machine; --device of other commands names a board (docs/devices.md).
    """
    from haqnas.devices.choose import device_for
    from haqnas.devices.local import read_host_cpu
    from haqnas.hardware import find_profile, shipped_profiles

    host = read_host_cpu()
    if name is not None:
        profile = find_profile(name, host)
        if is_json:
            print_json({"profile": asdict(profile)})
        else:
            print_lines(profile_rows(profile))
        return
    profiles = shipped_profiles()
    devices = [device_for(profile, None, host) for profile in profiles]
    uris = [device.uri if device else None for device in devices]
    own = find_profile("host", host).name if any(host.can_run(profile) for profile in profiles) else None
    if is_json:
        listed = [{**asdict(profile), "device": uri} for profile, uri in zip(profiles, uris, strict=True)]
        print_json({"host": own, "targets": listed})
        return
    rows = [(p.name, uri or "nothing here", p.description) for p, uri in zip(profiles, uris, strict=True)]
    print_table(("target", "runs on", "description"), [("host", "local", f"this machine: {own}"), *rows])


@group.command("doctor")
@json_option
def doctor_command(is_json: bool) -> int:
    """Say what haqnas finds on this machine, what is missing, and what to type."""
    findings = examine()
    is_healthy = all(finding.is_there or not finding.is_required for finding in findings)
    if is_json:
        print_json({"healthy": is_healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        print_table(
            ("", "what", "found"),
            [
                ("ok" if f.is_there else "MISSING" if f.is_required else "absent", f.name, f.detail)
                for f in findings
            ],
        )
    return 0 if is_healthy else 4
