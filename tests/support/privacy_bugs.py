"""Privacy bugs to plant, one at a time, into a copy of the code. No test knows this list; each must be found by one.

A bug is a text that is replaced in one file; a text that is not there exactly once is an error, so that the list keeps up with the
code. `killer` is a test that fails with the bug and passes without it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    name: str
    file: str
    old: str
    new: str
    killer: str
    more: tuple[
        tuple[str, str], ...
    ] = ()  # other texts of the same file that the bug needs replaced


BUGS = [
    Bug(
        "noise halved",
        "privacy/private_sum.py",
        "    return sample_discrete_gaussian(mechanism.deviation, mechanism.dimension, keystream)\n",
        "    return sample_discrete_gaussian(mechanism.deviation, mechanism.dimension, keystream) // 2\n",
        "tests/privacy/test_private_sum.py::test_an_answer_has_the_declared_noise_around_the_sum",
    ),
    Bug(
        "noise sized for all sites, as if nobody colluded or dropped out",
        "study/guarantee.py",
        'shares = survivors - privacy.max_colluding if privacy.trust == "aggregate" else 1',
        'shares = sites if privacy.trust == "aggregate" else 1',
        "tests/study/test_guarantee.py::test_the_constants_of_a_roster",
    ),
    Bug(
        "survivors of the roster, dropouts forgotten",
        "study/guarantee.py",
        "    survivors = sites - privacy.max_dropouts\n",
        "    survivors = sites\n",
        "tests/study/test_guarantee.py::test_the_constants_of_a_roster",
    ),
    Bug(
        "only the last layer clipped",
        "gradients/per_example.py",
        "        squares = squares + gradient.squares\n",
        "        squares = squares + 0 * gradient.squares\n",
        "tests/gradients/test_derivatives.py::test_norms_are_those_of_the_gradients_that_are_summed",
    ),
    Bug(
        "biases (and scalars) left out of the norm",
        "gradients/blocks.py",
        '"augmented": np.pad(squares, padding).reshape(-1) + 1,',
        '"augmented": np.pad(squares, padding).reshape(-1),',
        "tests/gradients/test_derivatives.py::test_norms_are_those_of_the_gradients_that_are_summed",
    ),
    Bug(
        "NaN passes clipping",
        "privacy/clipping.py",
        "    return np.where(finite & (weights >= np.finfo(np.float64).tiny), weights, 0.0)\n",
        "    return np.where(np.isinf(norms) | (weights < np.finfo(np.float64).tiny), 0.0, weights)\n",
        "tests/privacy/test_clipping.py::test_weights_are_those_of_the_table",
    ),
    Bug(
        "a zero norm divides by zero",
        "privacy/clipping.py",
        "        weights = bound / np.maximum(safe, bound)\n",
        "        weights = np.minimum(1, bound / safe)\n",
        "tests/privacy/test_clipping.py::test_weights_are_those_of_the_table",
    ),
    Bug(
        "a site's sum weighted by its number of units",
        "client/answers.py",
        "            return study.contributor.clipped_sum(query.function, query.parameters, chosen)\n",
        "            found = study.contributor.clipped_sum(query.function, query.parameters, chosen)\n"
        "            return found * max(1, int(chosen.sum())) / 4\n",
        "tests/client/test_answers.py::TestNoise::test_with_trust_in_the_server_an_answer_is_rounded_and_no_more",
    ),
    Bug(
        "clipped after summing",
        "study/contributions.py",
        "            weights = self._weights(np.hypot(gradients.norms, signal), stage)\n"
        "            gradients.weighted_sum(weights, add_to=total[: self._model.size])\n",
        "            weights = np.ones_like(signal)\n"
        "            gradients.weighted_sum(weights, add_to=total[: self._model.size])\n"
        "            total *= float(self._weights(np.array([np.linalg.norm(total)]), stage)[0])\n",
        "tests/study/test_contributions.py::test_one_unit_moves_a_gradient_sum_by_at_most_its_clipping_norm",
    ),
    Bug(
        "Gram-matrix norms in float32, without a bound for cancellation",
        "gradients/dense.py",
        '            self.squares[part] += np.einsum("up,up->u", narrow, narrow)\n',
        '            self.squares[part] += np.einsum("up,up->u", narrow, narrow)\n'
        "        inputs = columns.reshape(-1, batch.units, batch.rows)\n"
        "        outputs = deltas.reshape(-1, batch.units, batch.rows)\n"
        '        gram = np.einsum("iur,ius->urs", inputs, inputs) + 1\n'
        '        gram = gram * np.einsum("our,ous->urs", outputs, outputs)\n'
        "        self.squares = np.abs(gram.sum(axis=(1, 2))).astype(np.float64)\n",
        "tests/gradients/test_non_finite.py::test_rows_that_cancel_have_the_norm_of_their_sum",
    ),
    Bug(
        "a unit's gradient divided by the rows of its whole block",
        "gradients/blocks.py",
        "    weights = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)\n",
        "    weights = rows / np.maximum(rows.sum(), 1)\n",
        "tests/gradients/test_bits.py::test_dense_models_do_not_see_position_or_company",
    ),
    Bug(
        "one keystream for dither and noise",
        "client/answers.py",
        'noise_share=Keystream(self._entropy("noise", *labels)) if with_noise else None,',
        'noise_share=Keystream(self._entropy("dither", *labels)) if with_noise else None,',
        "tests/client/test_answers.py::TestNoise::test_every_purpose_has_a_key_of_its_own",
    ),
    Bug(
        "the same noise for every query",
        "client/answers.py",
        'noise_share=Keystream(self._entropy("noise", *labels)) if with_noise else None,',
        'noise_share=Keystream(self._entropy("noise", query.study)) if with_noise else None,',
        "tests/client/test_answers.py::TestNoise::test_two_queries_with_the_same_parameters_have_noise_of_their_own",
    ),
    Bug(
        "a keystream that starts anew at every call",
        "privacy/keystream.py",
        "        with self._lock:\n",
        "        self._encryptor = self._start()\n        with self._lock:\n",
        "tests/privacy/test_keystream.py::test_words_do_not_depend_on_how_they_are_asked_for",
        more=(
            (
                "        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()\n",
                "        self._start = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor\n",
            ),
        ),
    ),
    Bug(
        "sampling with replacement, of a fixed size",
        "privacy/sampling.py",
        "    return keystream.words(count) < np.uint64(math.floor(rate * 2.0**64))\n",
        "    chosen = np.zeros(count, dtype=np.bool_)\n"
        "    if count:\n"
        "        chosen[keystream.words(round(rate * count)) % np.uint64(count)] = True\n"
        "    return chosen\n",
        "tests/privacy/test_sampling.py::test_the_number_drawn_is_binomial",
    ),
    Bug(
        "sampling rate from the true count",
        "client/answers.py",
        "            chosen = poisson_sample(study.contributor.unit_count, stage.sampling_rate, sample)\n",
        "            rate = stage.sampling_rate if stage.sampling_rate == 1 else min(\n"
        "                0.99, stage.sampling_rate * 20 / max(1, study.contributor.unit_count))\n"
        "            chosen = poisson_sample(study.contributor.unit_count, rate, sample)\n",
        "tests/client/test_answers.py::TestSampling::test_units_take_part_with_the_declared_rate",
    ),
    Bug(
        "sensitivity before rounding",
        "privacy/rounding.py",
        "    return min(reach + root, math.sqrt(likely))\n",
        "    return reach\n",
        "tests/privacy/test_rounding.py::test_the_likely_bound_fails_no_more_often_than_beta",
    ),
    Bug(
        "floating-point slack left out of the sensitivity",
        "privacy/private_sum.py",
        "    return sites * rounded_sensitivity(reach / sites, dimension, beta) * (1 + eta)\n",
        "    return sites * rounded_sensitivity(reach / sites, dimension, beta)\n",
        "tests/privacy/test_private_sum.py::test_k_shares_are_the_noise_that_the_accountant_is_told",
    ),
    Bug(
        "rounding of one site counted for a unit at several",
        "privacy/private_sum.py",
        "    return sites * rounded_sensitivity(reach / sites, dimension, beta) * (1 + eta)\n",
        "    return rounded_sensitivity(reach, dimension, beta) * (1 + eta)\n",
        "tests/privacy/test_private_sum.py::test_a_unit_at_several_sites_is_rounded_at_each",
    ),
    Bug(
        "a unit at several sites clipped to C at each",
        "privacy/private_sum.py",
        "        return self.clipping_norm / self.sites_per_unit\n",
        "        return self.clipping_norm\n",
        "tests/privacy/test_private_sum.py::test_a_unit_at_several_sites_is_rounded_at_each",
    ),
    Bug(
        "no clamp: a unit's part may wrap around the ring",
        "privacy/rounding.py",
        "    clamped = np.clip(scaled, -float(clamp), float(clamp))\n",
        "    clamped = scaled\n",
        "tests/privacy/test_rounding.py::test_values_beyond_the_clamp_are_clamped",
    ),
    Bug(
        "rounding to nearest, without dither",
        "privacy/rounding.py",
        "    dither = keystream.words(scaled.size)\n",
        "    dither = np.full(scaled.size, 2**63, dtype=np.uint64)\n",
        "tests/privacy/test_rounding.py::test_rounding_is_the_floor_of_the_value_plus_the_dither",
    ),
    Bug(
        "charged after computing",
        "client/answers.py",
        "        self._ledger.charge(*key, query.function, name, witnessed=witnessed)\n"
        "        try:\n"
        "            yield\n",
        "        try:\n"
        "            yield\n"
        "            self._ledger.charge(*key, query.function, name, witnessed=witnessed)\n",
        "tests/client/test_answers.py::TestCharges::test_a_query_is_charged_before_any_record_is_looked_at",
    ),
    Bug(
        "not charged at all",
        "client/answers.py",
        "        self._ledger.charge(*key, query.function, name, witnessed=witnessed)\n",
        "",
        "tests/client/test_answers.py::TestCharges::test_no_more_sums_than_declared_are_answered",
    ),
    Bug(
        "computed again after a crash",
        "client/answers.py",
        "        if answer is None:\n            raise RefusedError(Refusal.UNAVAILABLE)\n",
        "        if answer is None:\n"
        "            study = self._approved[query.study]\n"
        "            return self._vector(study, query, self._mechanism(study, query)).tobytes()\n",
        "tests/client/test_answers.py::TestCharges::test_a_failure_after_the_charge_burns_the_query",
    ),
    Bug(
        "a repeated query computed anew",
        "client/answers.py",
        "        if self._is_new(query, name):\n            mechanism = self._mechanism(study, query)\n",
        "        if not self._is_new(query, name):\n"
        "            return self._vector(study, query, self._mechanism(study, query)).tobytes()\n"
        "        else:\n            mechanism = self._mechanism(study, query)\n",
        "tests/client/test_answers.py::TestOnce::test_nothing_is_drawn_or_computed_again_for_a_repeated_query",
    ),
    Bug(
        "another query under an old number answered",
        "client/answers.py",
        "        if asked is not None and asked.charge.query != name:\n"
        "            raise RefusedError(Refusal.OTHER_QUERY_ANSWERED)\n",
        "",
        "tests/client/test_answers.py::TestOnce::test_another_query_with_the_same_number_is_refused",
    ),
    Bug(
        "more sums than declared",
        "study/ledger_state.py",
        "        if account.charged[body.function] >= declared.count:\n",
        "        if account.charged[body.function] > declared.count:\n",
        "tests/study/test_ledger_state.py::test_a_charge_needs_an_open_study_a_new_number_a_sum_that_is_left_and_the_approved_terms",
    ),
    Bug(
        "a ledger entry may be removed",
        "study/ledger_state.py",
        "        if (entry.sequence, entry.previous) != (self.entries, self.head):\n",
        "        if entry.sequence < self.entries:\n",
        "tests/audit/test_verify.py::test_a_removed_entry_is_found_where_it_is_missing",
    ),
    Bug(
        "a ledger entry may be edited",
        "study/ledger_state.py",
        "            each.verify(named)\n",
        "",
        "tests/audit/test_verify.py::test_an_edited_entry_is_found_by_its_signature",
    ),
    Bug(
        "a budget of another namespace",
        "study/ledger_state.py",
        "        settled, reserved = self._settled[namespace], self._reserved[namespace]\n",
        "        other = next(iter(self._settled))\n"
        "        settled, reserved = self._settled[other], self._reserved[other]\n",
        "tests/study/test_ledger_state.py::test_no_namespace_pays_for_another",
    ),
    Bug(
        "rounds not asked yet are not reserved",
        "study/ledger_state.py",
        "        spent = (cap.cost(self.studies[each].spent()) for each in reserved)\n",
        "        reserved = {each: cap.cost(self.studies[each].spent()) for each in reserved}\n"
        "        spent = reserved.values()\n",
        "tests/study/test_ledger_state.py::test_a_study_is_reserved_whole_and_gives_back_what_it_never_asked_and_nothing_else",
    ),
    Bug(
        "burnt queries are free",
        "study/ledger_state.py",
        '        account.asked[body.index] = replace(asked, status="burnt")\n',
        '        account.asked[body.index] = replace(asked, status="burnt")\n'
        "        account.charged[asked.charge.function] -= 1\n",
        "tests/study/test_ledger_state.py::test_a_study_is_reserved_whole_and_gives_back_what_it_never_asked_and_nothing_else",
    ),
    Bug(
        "every order gets all of delta",
        "privacy/filters.py",
        "        return (self.delta - self.extra) / len(self.orders)\n",
        "        return self.delta - self.extra\n",
        "tests/privacy/test_filters.py::test_orders_must_share_delta",
    ),
    Bug(
        "the cheaper of the train and test parts",
        "privacy/filters.py",
        "            max(_total(",
        "            min(_total(",
        "tests/privacy/test_filters.py::test_no_adversary_gets_more_than_delta_past_the_filter",
    ),
    Bug(
        "a site's vector replaced by another at the price of one removed",
        "study/ledger_entries.py",
        '"replace-one": 2})',
        '"replace-one": 1})',
        "tests/study/test_charging.py::test_a_study_of_sites_is_charged_with_half_the_noise_multiplier",
    ),
    Bug(
        "noise that colluders know charged as if nobody did",
        "study/charging.py",
        "mechanism.noise_multiplier_of(tolerance.shares)",
        "mechanism.noise_multiplier_of(tolerance.survivors)",
        "tests/study/test_charging.py::test_a_masked_sum_is_charged_with_the_k_shares_that_every_sum_holds",
    ),
    Bug(
        "a masked study on any thresholds",
        "study/ledger_state.py",
        "            terms.check_thresholds()\n",
        "            pass\n",
        "tests/study/test_ledger_state.py::test_a_masked_study_is_approved_only_with_thresholds_that_carry_it",
    ),
    Bug(
        "two sums of one query",
        "study/ledger_state.py",
        "        if asked.agreed is not None:\n",
        "        if asked.agreed == body:\n",
        "tests/study/test_ledger_state.py::test_a_sum_is_agreed_on_once_for_a_query_that_was_answered",
    ),
    Bug(
        "a majority of sites of which all may collude",
        "study/roster.py",
        "        if 2 * signers <= len(before.sites) + before.colluding:\n",
        "        if 2 * signers <= len(before.sites):\n",
        "tests/study/test_roster.py::test_sites_change_it_together_if_they_are_more_than_half_of_n_and_c",
    ),
    Bug(
        "spare rounds are free",
        "study/guarantee.py",
        "    rounds = training.rounds + training.spare_rounds\n",
        "    rounds = training.rounds\n",
        "tests/study/test_guarantee.py::test_spares_cost_exactly_what_rounds_cost",
    ),
    Bug(
        "the sum for scaling is free",
        "study/guarantee.py",
        "            sampling_rate=each.sampling_rate,\n"
        "            count=each.count,\n"
        "        )\n"
        "        for each in stages\n",
        "            sampling_rate=each.sampling_rate,\n"
        "            count=each.count,\n"
        "        )\n"
        "        for each in stages[-1:]\n",
        "tests/study/test_guarantee.py::test_a_declared_budget_is_kept_and_used",
    ),
    Bug(
        "beta of one sum for all of them",
        "study/guarantee.py",
        "beta=_FOR_ROUNDING * study.privacy.delta / (sums * places)",
        "beta=_FOR_ROUNDING * study.privacy.delta",
        "tests/study/test_guarantee.py::test_a_declared_budget_is_kept_and_used",
    ),
    Bug(
        "noise that does not buy the promised epsilon is approved",
        "client/answers.py",
        "        guarantee.check()\n        self._considered",
        "        self._considered",
        "tests/client/test_answers.py::TestRefusals::test_too_little_noise_is_refused_by_the_sites_own_accountant",
    ),
    Bug(
        "a site whose sum is zero does not answer",
        "client/answers.py",
        "        labels = (query.study, query.index)\n        with_noise",
        "        labels = (query.study, query.index)\n"
        "        if not self._clipped_sum(study, query).any():\n"
        "            raise RefusedError(Refusal.UNAVAILABLE)\n"
        "        with_noise",
        "tests/client/test_answers.py::TestNothingDependsOnTheData::test_every_site_answers_in_one_form",
    ),
    Bug(
        "means divided by the true count of answers",
        "study/plans.py",
        "    return records * survivors / guarantee.tolerance.sites\n",
        "    return records\n",
        "tests/study/test_plans.py::test_the_denominator_is_public_and_shrinks_with_the_survivors",
    ),
    Bug(
        "train and test parts by row position",
        "study/split.py",
        "    parts = (part_of(data.split_key, each, data.test_fraction) for each in identities)\n",
        "    names = (str(place).encode() for place, _ in enumerate(identities))\n"
        "    parts = (part_of(data.split_key, each, data.test_fraction) for each in names)\n",
        "tests/study/test_split.py::test_removing_and_moving_units_leaves_every_other_unit_in_its_part",
    ),
    Bug(
        "an early stop is credited",
        "server/release.py",
        '"epsilon": guarantee.epsilon, "epsilon_against_server"',
        '"epsilon": guarantee.epsilon_by_round[len(done) - 1] if guarantee.epsilon_by_round else None, "epsilon_against_server"',
        "tests/simulations/test_run.py::test_a_study_that_stops_early_costs_what_it_declared",
    ),
    Bug(
        "a summary of another run",
        "audit/release.py",
        '        _check_course(directory, manifest["queries"], model)\n',
        "",
        "tests/audit/test_forged_releases.py::TestFigures::test_other_figures_of_the_summary",
    ),
    Bug(
        "the members of a session are not those that were asked",
        "audit/release.py",
        '        if query["transcript"] != transcript:\n',
        '        if query["query_hash"] == transcript:\n',
        "tests/audit/test_forged_releases.py::TestWhoTookPart::test_and_with_a_session_of_theirs",
    ),
    Bug(
        "receipts of whatever was asked",
        "server/sums.py",
        "        if (receipt.study, receipt.index, receipt.transcript) != asked:\n",
        "        if (receipt.study, receipt.index) != asked[:2]:\n",
        "tests/audit/test_forged_releases.py::TestSums::test_all_of_them_replaced_and_the_model_replayed",
    ),
    Bug(
        "two studies at once raise an alarm",
        "client/receipts.py",
        "                else known.get(study, Witnessed(highest))",
        "                else Witnessed(highest)",
        "tests/client/test_rollbacks.py::TestBetweenStudies"
        "::test_what_another_study_shows_later_does_not_count_against_a_first_receipt",
    ),
    Bug(
        "a first receipt in a study of any entry",
        "client/receipts.py",
        "first.previous == FIRST and first.sequence > known.number",
        "first.previous == FIRST",
        "tests/client/test_rollbacks.py::TestBetweenStudies"
        "::test_a_backup_restored_between_two_studies_is_found_out_in_the_second",
    ),
    Bug(
        "a site goes on from receipts that its own ledger lacks",
        "client/receipts.py",
        "    if ledger.head_at(signed.receipt.sequence) != signed.receipt.head:\n",
        "    if ledger.head_at(signed.receipt.sequence) is None:\n",
        "tests/client/test_rollbacks.py::TestOwn::test_one_with_other_entries_in_its_place_is_refused",
    ),
    Bug(
        "a receipt follows the latest charge, answered or not",
        "study/ledger_state.py",
        "        account.charged[body.function] += 1\n",
        "        account.charged[body.function] += 1\n"
        "        account.latest = (entry.sequence, entry.hash)\n",
        "tests/client/test_rollbacks.py::TestChains::test_a_charge_that_waits_or_was_burnt_is_no_link",
    ),
    Bug(
        "whoever was away takes any receipts",
        "client/receipts.py",
        "    if len(chain) == MOST_RECEIPTS and all(each.receipt.index > last for each in chain):\n",
        "    if all(each.receipt.index > last for each in chain):\n",
        "tests/client/test_rollbacks.py::TestAbsence"
        "::test_who_missed_more_takes_a_full_message_and_no_shorter_one",
    ),
    Bug(
        "one direction of sampled losses",
        "privacy/loss_distributions.py",
        "    return PrivacyLossDistribution(removed, added)\n",
        "    return PrivacyLossDistribution(added)\n",
        "tests/privacy/test_loss_distributions.py::test_composition_is_what_brute_force_finds",
    ),
    Bug(
        "rounding is free over a lifetime",
        "privacy/filters.py",
        "        return total.extra * (1 + margin) <= self.extra and any(within)\n",
        "        return any(within)\n",
        "tests/privacy/test_filters.py::test_rounding_alone_can_use_a_budget_up",
    ),
    Bug(
        "sent before it is stored",
        "client/answers.py",
        "                self._ledger.store(query.study, query.index, content)\n",
        "",
        "tests/client/test_answers.py::TestOnce::test_a_query_asked_again_gets_the_very_same_bytes",
    ),
    Bug(
        "a masked study answered without masks",
        "client/answers.py",
        "        if study.masked is not None:\n",
        "        if study.masked is None and False:\n",
        "tests/client/test_masked_sums.py::TestOtherForms::test_a_plain_query_to_a_masked_study_is_refused_and_charges_nothing",
    ),
    Bug(
        "charged for the query alone, whoever takes part",
        "client/answers.py",
        "        name = masked.transcript(request, mechanism)\n",
        "        name = query_hash(request.payload)\n",
        "tests/client/test_masked_sums.py::TestRestarts::test_the_same_query_with_another_cohort_is_refused",
    ),
    Bug(
        "an agreement that is not on the disk",
        "client/masked.py",
        "            self._ledger.agree(self._study, self._open, survivors)\n",
        "            pass\n",
        "tests/client/test_masked_sums.py::TestSums::test_what_was_agreed_to_stands_in_every_ledger",
    ),
    Bug(
        "unmasked before the agreement is on the disk",
        "client/masked.py",
        "        if self._open is not None:\n"
        "            self._ledger.agree(self._study, self._open, survivors)\n"
        "        self._state = state\n",
        "        self._state = state\n"
        "        if self._open is not None:\n"
        "            with suppress(Exception):\n"
        "                self._ledger.agree(self._study, self._open, survivors)\n",
        "tests/client/test_masked_sums.py::TestRestarts::test_where_the_disk_fails_nothing_is_unmasked",
        more=(
            (
                "from collections.abc import Callable\n",
                "from collections.abc import Callable\nfrom contextlib import suppress\n",
            ),
        ),
    ),
    Bug(
        "a site's own ledger that was put back goes on",
        "client/receipts.py",
        "    for each in receipts.get(own, ()):\n",
        "    for each in ():\n",
        "tests/client/test_masked_sums.py::TestRestoredBackups::test_the_site_refuses_when_its_own_later_receipt_is_shown",
    ),
    Bug(
        "another site's receipt may be left out",
        "client/receipts.py",
        "        return known is None or known.receipt is None\n",
        "        return True\n",
        "tests/client/test_masked_sums.py::TestRestoredBackups::test_the_others_refuse_when_it_is_left_out",
    ),
    Bug(
        "a fork of another site's ledger is not told from it",
        "client/receipts.py",
        "    return first.previous == head or any(each.receipt.head == head for each in chain)\n",
        "    return chain[-1].receipt.sequence >= known.number\n",
        "tests/client/test_masked_sums.py::TestRestoredBackups::test_the_others_refuse_when_a_fork_is_shown",
    ),
    Bug(
        "a backup that was restored between two studies is not noticed",
        "client/receipts.py",
        "            highest = max((each.number for each in known.values()), default=-1)\n",
        "            highest = -1\n",
        "tests/client/test_receipts.py::TestBetweenStudies::test_a_first_entry_that_is_not_later_is_of_a_ledger_that_went_back",
    ),
    Bug(
        "receipts that are no chain",
        "study/receipts.py",
        "        ) or after.sequence <= before.sequence:\n",
        "        ) and after.study != before.study:\n",
        "tests/study/test_queries.py::test_receipts_are_chains",
    ),
    Bug(
        "what was asked is not held against what was signed",
        "audit/release.py",
        '        if query["query_hash"] != query_hash(payload):\n',
        '        if query["query_hash"] == "":\n',
        "tests/audit/test_release.py::test_two_sums_cannot_be_swapped",
    ),
    Bug(
        "whoever sees a receipt can test guesses of the entries before",
        "client/ledger.py",
        '        return derive_key(self._key.secret("salts"), state.entries, state.head).hex()[:32]\n',
        '        return "0" * 32\n',
        "tests/client/test_ledger.py::test_a_charge_has_a_salt_that_nobody_can_guess",
    ),
    Bug(
        "people who were never registered are asked about",
        "client/ledger.py",
        "        if strangers:\n",
        "        if strangers < 0:\n",
        "tests/client/test_ledger.py::test_a_study_is_approved_for_units_that_were_registered_and_no_others",
    ),
    Bug(
        "a budget of records beside one of patients",
        "study/ledger_state.py",
        "            if other.namespace == body.namespace and (other.unit is None) != (body.unit is None):\n",
        "            if other.namespace != body.namespace and (other.unit is None) != (body.unit is None):\n",
        "tests/study/test_ledger_state.py::test_a_namespace_is_of_records_or_of_units_that_columns_name_and_never_of_both",
    ),
]
