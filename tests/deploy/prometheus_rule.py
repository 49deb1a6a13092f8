"""Prints deploy/kubernetes/base/prometheusrule.yaml from deploy/prometheus/rules.yml:

python tests/deploy/prometheus_rule.py > deploy/kubernetes/base/prometheusrule.yaml
"""

from pathlib import Path

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yml"
HEAD = """\
# Made from deploy/prometheus/rules.yml by tests/deploy/prometheus_rule.py: change that, then make this again.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: factd
spec:
"""


def prometheus_rule() -> str:
    """The rules file, comments included, two spaces further in, as an object of the Prometheus operator."""
    lines = RULES.read_text().splitlines()
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in lines)


if __name__ == "__main__":
    print(prometheus_rule(), end="")
