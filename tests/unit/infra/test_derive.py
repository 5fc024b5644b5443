"""The schema is read out of bindings: names, types, what is required, how blocks nest, which values are listed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from infra_check.derive import derive

SOURCE = """
export interface BowlConfig extends cdktf.TerraformMetaArguments {
  /**
  * How it is filled. Possible values: ["WATER",
  * "FOOD"]
  *
  * Docs at {@link https://example.com/bowl#content Bowl#content}
  */
  readonly content: string;
}
export class BowlLidOutputReference extends cdktf.ComplexObject {
  // tight - computed: false, optional: false, required: true
  private _tight?: boolean;
  public get tight() {
    return this.getBooleanAttribute('tight');
  }
}
export class BowlRimsOutputReference extends cdktf.ComplexObject {
  // widths - computed: false, optional: true, required: false
  public get widths() {
    return cdktf.Fn.tolist(this.getListAttribute('widths'));
  }
}
export class BowlRimsList extends cdktf.ComplexList {
}
export class BowlOwnersOutputReference extends cdktf.ComplexObject {
  // name - computed: true, optional: false, required: false
  public get name() {
    return this.getStringAttribute('name');
  }
}
export class Bowl extends cdktf.TerraformResource {
  // content - computed: false, optional: false, required: true
  public get content() {
    return this.getStringAttribute('content');
  }
  // marks - computed: true, optional: true, required: false
  private _marks = new cdktf.StringMap(this, "marks");
  // litres - computed: false, optional: true, required: false
  public get litres() {
    return this.getNumberAttribute('litres');
  }
  // lid - computed: false, optional: false, required: true
  private _lid = new BowlLidOutputReference(this, "lid");
  // rims - computed: false, optional: true, required: false
  private _rims = new BowlRimsList(this, "rims", true);
  // owners - computed: true, optional: false, required: false
  private _owners = new BowlOwnersList(this, "owners", false);
}
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "lib" / "bowl"
    folder.mkdir(parents=True)
    content = base64.b64encode(json.dumps({"sourcesContent": [SOURCE]}).encode()).decode()
    (folder / "index.js").write_text(f"//# sourceMappingURL=data:application/json;base64,{content}\n")
    about = {
        "name": "@x/provider-google",
        "version": "1.2.3",
        "license": "MPL-2.0",
        "cdktf": {"provider": {"name": "registry.terraform.io/hashicorp/google", "version": "6.0.0"}},
    }
    (tmp_path / "package.json").write_text(json.dumps(about))
    return tmp_path


def test_a_type_is_read(package: Path) -> None:
    assert derive([package], {"google_bowl"}, set())["resources"]["google_bowl"] == {
        "provider": "google",
        "attributes": {
            "content": '"string" required',
            "marks": '["map","string"] optional computed',
            "litres": '"number" optional',
            "owners": '["list",["object",{"name":"string"}]] computed',
        },
        "values": {"content": ["WATER", "FOOD"]},
        "blocks": {
            "lid": {"nesting": "list", "min": 1, "max": 1, "attributes": {"tight": '"bool" required'}},
            "rims": {"nesting": "set", "min": 0, "attributes": {"widths": '["set","string"] optional'}},
        },
    }


def test_where_it_comes_from_is_kept(package: Path) -> None:
    assert derive([package], set(), set())["sources"] == [
        {
            "package": "@x/provider-google",
            "version": "1.2.3",
            "license": "MPL-2.0",
            "provider": "hashicorp/google",
            "provider_version": "6.0.0",
        }
    ]


def test_a_type_that_no_package_has_is_named(package: Path) -> None:
    with pytest.raises(LookupError, match="google_leash"):
        derive([package], {"google_leash"}, set())
