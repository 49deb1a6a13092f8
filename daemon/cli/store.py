"""The store of versions and the base model, as commands open them."""

from daemon.cli.exits import CommandError, Exit
from daemon.core.errors import StoreError
from daemon.core.publication import BASE_VERSION
from daemon.core.settings import Settings
from daemon.versions.keys import accepted_keys
from daemon.versions.store import Store
from editing.errors import EditError
from editing.model.loaded import LoadedModel, outlined_model


def opened(settings: Settings, *versions: str) -> tuple[LoadedModel, Store]:
    """The base model's outline and the store, after the versions were found in it.

    Raises:
        CommandError: the model cannot be used, or a version is not there.
    """
    store = Store(settings.store_dir, accepted_keys(settings))
    for version in versions:
        try:
            missing = version != BASE_VERSION and not store.path(version).is_dir()
        except StoreError as error:
            raise CommandError(Exit.BAD_INPUT, str(error), "`factd versions` lists them") from None
        if missing:
            what = f"there is no {version} in {store.versions}"
            raise CommandError(Exit.NOT_FOUND, what, "`factd versions` lists them; or give --state DIR")
    try:
        return outlined_model(settings.model, settings.statistics), store
    except EditError as error:
        raise CommandError(Exit.BAD_INPUT, str(error), "give the unedited model with --model") from None
