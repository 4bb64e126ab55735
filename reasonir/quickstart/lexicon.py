"""Word lists of the built-in world: what people observe, and how a text book, a contract or a manual says it.

A block holds one attribute, an entry one of its values: `name: expressions of a query => expressions of a
document`, separated by ` | `, continued on indented lines. A query's expressions are concrete, told by a
layman; a document's are abstract. Each is a clause without capital and full stop; in `data_functions` a
document's is `code name ~ description`. The one invariant: within a task no content word occurs on both
sides, so only meaning leads from one to the other (`tests/unit/test_world.py` enforces it). The grammar that
joins the clauses is in `world.py`.
"""

NATURAL_SCIENCE = {
    "process": """
evaporation: the puddle by the gate shrank although nobody swept it | the wet towel on the rail was bone-dry
  by supper | the soup lost a finger's depth on the stove | the varnish tin left open had grown a tough skin
  => molecules escape a free liquid boundary and enter the gas phase | a fluid surrenders its fastest
  particles to the atmosphere | vaporisation transfers mass across the meniscus
condensation: the bathroom mirror fogged over | beads formed on the outside of my lemonade glass | my
  spectacles went blind as I came indoors | the cellar pipe dripped although it had no leak => airborne
  humidity deposits on bodies below the saturation temperature | a saturated vapour reverts to droplets | the
  gas phase liquefies at a cool substrate
corrosion: the bicycle chain turned brown and flaky | the old gate hinge left orange crumbs on my fingers |
  the nails in the fence bled reddish streaks | the tin bucket grew a crust and then a hole => metals
  surrender electrons to oxygen | an electrochemical cell converts iron into its oxide | anodic sites of an
  alloy are oxidised
dissolution: the sugar cube in my tea was gone | the bath bomb became nothing but cloudy water | the aspirin
  vanished in the tumbler | the block of stock melted away into the broth => a solid disperses into ions or
  molecules within a solvent | the lattice is dismantled by solvation | solute enters a homogeneous solution
crystallisation: the honey in the cupboard went grainy | needles of ice grew over the pond | the syrup jar
  filled with hard little lumps | a sparkling white fringe appeared along the flower pot => nuclei organise
  atoms into an ordered lattice | a supersaturated phase precipitates as regular facets | solidification
  proceeds by nucleation
capillarity: the tea climbed up the biscuit that I held at its edge | the wick drew the lamp oil upwards | the
  damp rose in the brick wall to knee height | ink feathered out along the threads of the napkin => narrow
  pores draw a fluid against gravity | surface tension and affinity lift a meniscus in fine channels |
  capillary suction transports a fluid through porous media
adhesion: two sheets of glass could not be pulled apart | the sticker would not peel off the bumper | the wet
  leaf clung to my boot | the rubber sole had glued itself to the floor => attractive forces between molecules
  bind dissimilar faces | interfacial bonds resist separation | van der Waals attraction holds two bodies
  together
static charge: my hair stood up after the woollen jumper came off | the doorknob gave me a nasty zap | the
  balloon hung on the ceiling without a string | scraps of tissue leapt at the comb => electrons migrate
  between insulators and render them electrically charged | triboelectric contact separates charges | an
  electrostatic field builds up on a poor conductor
swelling: the kitchen drawer jammed shut | the dried beans grew to thrice their girth | the wooden deck boards
  bulged against each other | the sponge cloth puffed up in the sink => a porous body imbibes fluid and its
  volume dilates | hygroscopic fibres enlarge through sorption | osmotic uptake distends a polymer network
fracture: the windscreen got a long crooked line | the plastic peg snapped in my hand | the garden slab split
  right across | the handle of my favourite mug came clean off => a flaw propagates through a brittle solid |
  cohesive failure relieves stored elastic energy | crack tips concentrate strain
gas release: the dough pushed the lid off the bowl | the cider bottle popped its cork | bubbles streamed out
  of the pickle crock | the lunch box was blown up like a cushion => a reaction liberates gaseous products |
  metabolic or chemical conversion evolves carbon dioxide | volatile species are generated inside a sealed
  vessel
fading: the red curtain had gone a dull pink | the writing on the receipt could no longer be read | the poster
  in the shop became pale as milk | the navy blue cushion looked washed out => chromophores decompose and
  cease to absorb | a pigment's conjugated bonds are cleaved | degradation of dyes alters their absorption
  spectrum
sedimentation: the orange juice had a thick band at the bottom | mud had gathered on the floor of the rain
  barrel | the cocoa left a dark sludge in the cup | the river mouth had silted up => suspended grains descend
  under gravity | denser constituents segregate from a suspension | dispersed particles settle at their
  terminal velocity
vibration: the glasses in the cabinet started to sing | the footbridge wobbled under us | the washing machine
  went for a walk | the gutter hummed the whole night => a structure resonates at its natural frequency |
  elastic restoring forces and inertia exchange energy | mechanical modes are excited in a resonant body
""",
    "driver": """
temperature: it was worst right beside the fireplace | on the hottest afternoon we saw most of it | in the
  chilly pantry hardly any of it was seen | moving everything closer to the oven brought far more of it =>
  thermal energy governs the rate | kinetic agitation sets the magnitude | the activation barrier is
  surmounted by heating
area: spreading the stuff out thinly brought far more of it | the crushed bits showed it much more than the
  big pieces | a wide tray gave more of it than a tall jug | chopping everything small made it worse => the
  extent of the interface governs the rate | exposed area sets the magnitude | the ratio of boundary to volume
  is decisive
impurity: a pinch of salt changed everything | a dash of vinegar was enough to bring it on | with rainwater we
  got none of it, with tap water plenty | one squirt of washing-up soap made it worse => foreign substances
  govern the rate | trace additives set the magnitude | the concentration of contaminants is decisive
flow: stirring brought it on | whenever the fan was running we saw most of it | a draught from the hallway
  made it worse | in still weather hardly any of it was seen => convective transport governs the rate | the
  breadth of the stagnant layer sets the magnitude | forced circulation is decisive
load: the heavier the crate on top, the more of it we saw | leaning on it with my whole weight brought it on |
  at the very foot of the pile it was worst | tightening the clamp made it worse => applied pressure governs
  the rate | compressive stress sets the magnitude | the normal force is decisive
light: only the side by the sunny window showed it | under the tarpaulin none of it was seen | where the tree
  cast its shade there was hardly any | leaving the lamp on overnight brought far more of it => incident
  radiation governs the rate | photon flux sets the magnitude | irradiance is decisive
""",
    "law": """
linear: each further day added just the same bit again | twice the wait gave twice as much, no more and no
  less | the marks on my ruler came at even gaps | it went on as steadily as a clock => the response is linear
  | cause and outcome are proportional | increments remain constant throughout
threshold: for ages nothing stirred, and then all at once it was there | up to a point you would have sworn
  that all was well | a hair less and not a thing happened | it arrived as suddenly as a door slams => the
  response requires a critical value to be exceeded | a discontinuous onset separates two regimes | the system
  is inert beneath its threshold
saturating: it went fast at first and later hardly moved on | after a while no trick could get any more out of
  it | the early hours brought nearly the whole of it | it crept to a halt by the evening => the response
  approaches a plateau | finite capacity imposes an asymptotic limit | increments diminish towards equilibrium
runaway: the more there was, the faster more came | it snowballed | a speck in the morning was a monster by
  dusk | every hour brought double the hour before => the response is exponential | positive feedback
  amplifies the outcome | the mechanism is autocatalytic
periodic: it came and went, came and went | it waxed and waned like the tide | now it was there, now it was
  not, now it was there again | it kept swapping between strong and weak => the response is periodic |
  opposing contributions alternate in a cycle | the outcome oscillates
""",
    "reversal": """
reversible: once we undid our doing, all was as before | a week after, not a sign was left | putting things
  back cured it completely | it healed all by itself => the alteration is fully reversible | the initial
  configuration is restored | no residual deviation persists
irreversible: nothing we tried brought the old look back | it stayed like that for good | we had to throw the
  lot out in the end | months after, the harm was still plain to see => the alteration is permanent | entropy
  production precludes restoration | the original configuration is unrecoverable
hysteresis: on the way back it lagged a good deal behind | it only came back halfway | getting rid of it took
  far longer than getting it | it came back, but late and by another road => the alteration exhibits
  hysteresis | the return path differs from the forward path | relaxation retains a memory of prior history
""",
}

OFFICE_CASES = {
    "matter": """
confidentiality: {name} showed the customer list to a cousin | {name} left the salary sheets lying on a train
  | {name} told a rival what our next model will look like | {name} put a photo of our whiteboard on the web
  => unauthorised disclosure of proprietary information | breach of secrecy | dissemination of protected
  knowledge
expenses: {name} handed in taxi slips for a trip to the beach | {name} let the firm pay three dinners with an
  old school friend | {name} bought a sofa for the flat with the firm's card | {name} sent us the garage bill
  for the family car => reimbursement without business justification | improper expenditure | outlays of a
  personal nature
absence: {name} was not seen at the desk from Monday to Thursday | {name} stayed in bed on the day of the
  stocktaking | {name} went to lunch and did not come back | {name} skipped the whole week of the fair =>
  non-attendance during scheduled duty | unexcused absence | failure to be present
damage: {name} drove the van into the loading ramp | {name} spilled coffee over the new projector | {name}
  dropped the laptop down the stairs | {name} let the forklift roll into the pond => impairment of entrusted
  assets | physical deterioration of equipment | destruction of property
delay: {name} finished the drawings nine days after the Friday we had shaken hands on | {name} brought the
  brochures when the stands were already down | {name} baked the wedding cake too late for the wedding |
  {name} put in the windows in March instead of January => default on a contractual date | overdue performance
  | delayed fulfilment of an obligation
defects: {name} sold us a boiler that leaked from the first day | {name} brought chairs whose legs came off |
  {name} printed the menus with half the letters missing | {name} built a shelf that sags like a hammock =>
  non-conforming deliverables | deficient workmanship | warranty of quality
nuisance: {name} has drum practice right below the meeting room | {name} grills fish in the courtyard each
  noon | {name} bawls into the phone all day long | {name} lets three dogs bark in the corridor => disturbance
  of fellow occupants | excessive emissions of noise or odour | interference with quiet enjoyment
safety: {name} walked under the crane without a helmet | {name} wedged the fire door open with a chair |
  {name} took the guard off the saw | {name} smoked beside the petrol drums => contravention of hazard
  precautions | disregard of occupational protection | non-compliance with accident prevention
favouritism: {name} gave the cleaning job to a brother-in-law | {name} sat on the panel that picked a flatmate
  | {name} steered the roof repair to a shop that belongs to the family | {name} marked a godchild's test =>
  conflict of interest | partiality towards related persons | preferential awards among kin
gifts: {name} took home a crate of wine from the caterer | {name} flew to a ski weekend that the printer
  dealer paid for | {name} got a gold watch from the builder | {name} sat in the brewery's box at the final =>
  acceptance of benefits from third parties | inducements | gratuities offered by suppliers
records: {name} ticked the checklist without opening the cabinet | {name} jotted down shifts that nobody had
  worked | {name} put an older day on the receipt | {name} made up the meter readings => falsification of
  documentation | inaccurate register entries | fabricated evidence
conduct: {name} yelled at the trainee until the tears came | {name} mocked a colleague's accent over lunch |
  {name} called the receptionist a cow | {name} kept making lewd jokes at the copier => degrading treatment |
  violation of personal dignity | harassment
side job: {name} drives a taxi at night | {name} fixes bikes for cash on Sundays | {name} pours beer in a pub
  four evenings a week | {name} tutors pupils for money after five => ancillary occupation | outside
  remunerated activity | additional engagement elsewhere
signing: {name} signed a ten-year lease all alone | {name} ordered forty desks without a second signature |
  {name} promised a buyer half off | {name} took out a loan in the firm's name => commitments exceeding
  delegated powers | transactions without mandate | overreach of representation
""",
    "motive": """
mistake: {he} had simply mixed things up | it was a slip of a tired mind | {he} honestly thought that it was
  fine | {he} had misread the sheet on the wall => inadvertence attenuates liability | excusable error is
  assessed leniently | negligence devoid of intent is presumed
intent: {he} knew perfectly well what {he} was up to | {he} had been planning it for days | {he} just grinned
  and said that rules were for others | {he} did it out of spite => wilfulness aggravates liability |
  deliberate contravention is assessed severely | malice is presumed
higher force: a storm had knocked out every wire and road | the river had burst its banks that night | the
  whole town was without electricity | the earthquake had turned everything upside down => force majeure
  extinguishes liability | uncontrollable external circumstances are exempted | unforeseeable catastrophe
  releases the obligor
orders: the boss had told {him} to | {he} only did what the foreman had shouted across the yard | an e-mail
  from upstairs had asked for just that | {his} chief had nodded it through => directives of a superior
  transfer liability | the instructing authority is answerable | hierarchical command is imputed upwards
rescue: somebody's life seemed to hang on it | {he} was thinking only of the man who lay bleeding | a toddler
  would have been hurt otherwise | a visitor had collapsed and each second counted => necessity justifies the
  deed | averting a graver peril is privileged | preservation of a superior value prevails
""",
    "candour": """
before: {he} had warned us a week earlier | days ahead a note about it lay in our tray | {he} had said at the
  last meeting that it was going to happen | we had it in black and white before it happened => prior
  notification is credited | advance announcement shall be weighed | declarations ex ante are recorded
after: within the hour {he} came and told us everything | the same evening {he} rang to own up | {he} walked
  straight into my room and said sorry | {his} letter with the full story came with the next post => prompt
  self-reporting is credited | spontaneous confession shall be weighed | immediate voluntary statements are
  recorded
asked: {he} only talked when we put it to {him} | {he} kept mum until I asked {him} to {his} face | it took
  two rounds of questions to get it out of {him} | when I held the paper under {his} nose, {he} nodded =>
  admission upon inquiry is credited | acknowledgement elicited by examination shall be weighed | concessions
  under interrogation are recorded
hidden: {he} swept it under the carpet | {he} swears to this day that it never was so | {he} wiped the
  camera's tape | {he} put the blame on the cat => concealment is penalised | suppression of facts shall be
  weighed | obstruction and denial are recorded
""",
    "standing": """
newcomer: {he} had been with us for three weeks | {he} was still finding out where the kettle stands | the ink
  on {his} papers was hardly dry | it was {his} very first month => the provision addresses probationers |
  recent entrants are covered | applicability: initial trial period
veteran: {he} has been here since the old chimney was torn down | we toasted {his} silver jubilee in May |
  nobody in the house can remember a time without {him} | {he} has seen five owners come and go => the
  provision addresses tenured staff | persons of extended service are covered | applicability: established
  seniority
outsider: {he} is not on our payroll | an agency sends {him} to us | {he} comes with {his} own tools and
  leaves a bill | {he} works for us and for six others => the provision addresses independent contractors |
  external providers are covered | applicability: non-employees
leader: {he} runs the whole branch | sixty people dance to {his} tune | {he} has the corner room with the big
  carpet | {his} name stands at the top of the letter paper => the provision addresses executives | holders of
  managerial functions are covered | applicability: governing bodies
""",
}

DATA_FUNCTIONS = {
    "operation": """
deduplicate: the same customer turns up three times in our list | half of the newsletter addresses are there
  twice | {name} pasted last week's orders in again | every member seems to have two cards => drop_duplicates
  ~ collapses identical tuples | unique_records ~ retains one representative of each equivalence class |
  distinct ~ eliminates redundant observations
join: the prices are in one file and the amounts in another | I want the phone numbers next to the pupils, but
  they are on two lists | {name} has the names and I have the birthdays | our bookings know the guest only by
  number, and the guest book is elsewhere => merge_on_key ~ relational combination through a shared identifier
  | inner_join ~ matches two relations by foreign key | link_sources ~ associates records of separate
  relations
aggregate: I want a single figure per branch and not each till slip | how much did each driver bring in
  altogether | {name} wants to know what every club spent in all | it should boil the sales down to one line
  per town => group_reduce ~ partitions by category and evaluates statistics | aggregate_by ~ folds partitions
  into totals | summarize_groups ~ evaluates a reducer within categories
sort: the bills lie in a jumble and I want the dearest on top | the swimmers should stand from quickest to
  slowest | {name} wants the books from A to Z | the oldest letter must come first => rank_by ~ permutes
  records monotonically | argsort ~ ranks observations by a comparator | arrange ~ imposes ascending sequence
pivot: the months go down the page and I want them across | I would like to turn one endless strip into a grid
  of shops and weeks | {name} needs a chart with a stripe for each year | the answers stand below each other
  and should stand beside each other => reshape_wide ~ converts tall layout to wide layout | unstack ~ rotates
  a level into columns | crosstab ~ casts key-value pairs into a matrix
resample: the thermometer writes whenever it likes and I want one reading per quarter of an hour | the ticks
  come unevenly and I need one a day | {name} has the seconds, but I want the weeks | the pulse watch beeps
  too often for my picture => resample ~ regularises sampling frequency | regrid ~ converts a series to an
  equidistant temporal raster | downsample ~ decimates a chronological signal
dates: some wrote 3/4 and others fourth of March | the birthdays are typed in five fashions | {name} writes
  Xmas Eve where I write 24 Dec | it takes the American day for the month => parse_timestamps ~ coerces
  heterogeneous calendar strings | to_datetime ~ infers ISO 8601 notation | normalize_calendar ~ canonicalises
  temporal literals
smooth: the daily takings hop about so much that I cannot see where they are heading | the scales say
  something else each morning | {name} wants a calm curve and no zigzag | I want each day eased with the days
  around it => rolling_window ~ applies a moving filter | smooth_series ~ convolves a signal with a kernel |
  ewm ~ attenuates fluctuation by exponential averaging
sample: nobody can read a million letters, so a fair handful has to do | I want to pull fifty tickets out of
  the hat | {name} will taste some jars and not all of them | we can ring up only a few of the voters =>
  random_subset ~ draws uniformly at random | sample_fraction ~ selects a stochastic portion | reservoir ~
  obtains an unbiased selection
bin: I want to file people under child, grown-up and pensioner | the rents should go into cheap, middling and
  dear | {name} wants small, medium and large eggs in trays of their own | exact ages are no good to me, I
  need decades => discretize ~ maps continuous variables to intervals | breakpoints ~ assigns ordinal classes
  | quantile_bins ~ quantises magnitudes
scale: height is in inches and weight in stones, and neither should drown the other | one judge gives up to
  ten marks and one up to a hundred | {name} hands out only high grades and I hand out low ones | the rainfall
  dwarfs the wind in my picture => standardize ~ transforms to zero expectation and unit variance |
  min_max_rescale ~ constrains features to a common span | standard_scores ~ expresses deviations relative to
  dispersion
outliers: somebody typed a shoe size of four thousand | one of the hens is said to lay ninety eggs a day |
  {name} found a grandmother aged two | some of the fares are absurd => detect_anomalies ~ identifies
  implausible extremes | flag_outliers ~ thresholds robust deviations | isolate_extremes ~ locates improbable
  magnitudes
fuzzy: Meyer, Meier and Mayr are one person in our books | half of the street names are misspelt | {name}
  typed with cold fingers and the towns look it | Jon Smith and Smith, John ought to be one =>
  approximate_match ~ compares strings by edit distance | resolve_entities ~ unifies orthographic variants |
  similarity_lookup ~ tolerates typographic deviations
split: forename, street and town all sit in one cell | I want the colour and the size out of the label |
  {name} crams the whole address on one line | the title and the author are stuck to each other =>
  split_fields ~ decomposes a composite attribute | extract_components ~ captures substrings through a pattern
  | tokenize_column ~ separates concatenated values
""",
    "nulls": """
raise: a blank box must bring the whole thing to a halt | if somebody forgot to write in a box, I want an
  alarm | it should refuse to go on when a box is blank | better no answer at all than one with blanks in it
  => raise ~ absent entries trigger an exception | error ~ incomplete input is rejected | strict ~ nullity
  aborts execution
skip: blank boxes may be passed over | whoever wrote nothing can be left out | it should act as though the
  blanks were not there | do not bother about boxes that nobody wrote in => skip ~ absent entries are ignored
  | omit ~ incomplete input is disregarded | exclude ~ nullity is bypassed
fill: a blank box should be read as nought | put a dash wherever nobody wrote anything | where a box is blank,
  it should get the usual answer | please plug the holes with something of my choice => fill ~ absent entries
  are substituted by a constant | impute ~ incomplete input is completed with a default | replace ~ nullity
  yields a placeholder
keep: a blank box must stay a blank box to the end | I still want to see the holes at the end | whatever was
  blank before should be blank later | do not dare make up what nobody wrote => propagate ~ absent entries
  persist | preserve ~ incomplete input is transmitted intact | passthrough ~ nullity is contagious
""",
    "engine": """
chunked: the file is far bigger than my laptop can hold | my old machine chokes if I open it all | it would
  never fit on this little computer in one go | the thing is as fat as an encyclopedia => chunked ~ bounded
  partitions are processed out of core | streaming ~ residency is limited to a buffer | blockwise ~ memory
  consumption is independent of cardinality
parallel: it has to be done before my train goes | sixteen processors are twiddling their thumbs here |
  yesterday it took all night and I cannot wait like that again | speed is all I care about => multithreaded ~
  work is distributed over concurrent workers | parallel ~ throughput increases with available cores |
  vectorized ~ latency is minimised by simultaneous evaluation
online: new slips come in every minute and I cannot start over each time | the tap is never shut, so to speak
  | tomorrow there will be more, and I only want to add those | the answer has to grow along with the day =>
  online ~ running state is maintained | incremental ~ updates are absorbed without reprocessing | append ~
  deltas are integrated
cached: the boss asks for the very thing twenty times a day | mostly nothing has changed since I last asked |
  we all press that button over and over | why should it toil again for what it has told me already =>
  memoized ~ previous results are stored under a content hash | cached ~ repeated invocations are retrieved |
  persisted ~ identical requests reuse a stored artefact
exact: the tax office must get the very same penny next year | yesterday and today it gave me two answers, and
  I cannot have that | my colleague's computer has to come to the same last digit | I have to swear to it in
  court => deterministic ~ arithmetic is reproducible | seeded ~ bitwise identity across platforms is
  guaranteed | canonical ~ nondeterminism is eliminated
""",
    "output": """
copy: the old sheet must not be touched | I want a fresh sheet and the old one as well | hands off what I gave
  you | I may need to go back to what I had => copy ~ an independent object is allocated | pure ~ the argument
  is immutable | clone ~ side effects are prohibited
inplace: just write over the old sheet | I have no more use for the old one | there should be only one sheet
  when it is over | mend it right where it is => inplace ~ the argument is mutated | overwrite ~ storage is
  modified directly | destructive ~ the operand is superseded
mask: only tell me which lines are meant | I want a tick beside the lines in question and no more | show me
  where they are, I will do the rest by hand | point a finger at them, that will do => mask ~ boolean
  indicators are emitted | index ~ positions are returned | locations ~ coordinates are yielded
report: I need half a page on how it went | my chief wants to hear how many and how often | tell me what you
  did and what went wrong | I would like something to read afterwards => report ~ diagnostic statistics are
  compiled | audit ~ provenance is logged | profile ~ metadata are documented
""",
}

# How a text opens and ends, per task: openings and questions of queries, titles and remarks of documents.
FRAMES = {
    "natural_science": """
openings: at my aunt's cottage | in our first winter in the flat | during the school trip | at the bakery
  where I work | last Tuesday | on the campsite | while we were redecorating | at my neighbour's
questions: Why is that? | What is going on here? | What lies behind it? | How come? | Who can tell me why?
titles: Principle | Theorem | Textbook entry | Lemma | Proposition | Axiom
remarks: The statement presumes laboratory standards. | Derivations are relegated to the appendix. | Symbols
  follow international convention. | Quantitative treatment is deferred to the exercises. | Historical
  references are omitted. | Secondary contributions are neglected.
""",
    "office_cases": """
openings: as far as I know | according to the porter | by all accounts | to cut a long tale short | believe it
  or not | so I hear | to put it plainly | if I get it right
questions: What does that lead to? | Where do we stand? | What may we do now? | What are we to make of it? |
  Which way does this go?
titles: Clause | Section | Article | Paragraph | Regulation | Provision
remarks: Definitions appear in the annex. | Statutory entitlements remain unaffected. | Interpretation
  reflects the prevailing edition. | Amendments require ratification. | Severability is maintained. |
  Cross-references are informative.
""",
    "data_functions": """
openings: I keep the lists for our choir | I help out in a garden shop | I sit at the vet's front desk | we
  are getting ready for the village fair | I look after my uncle's garage | I do the paperwork of the football
  club | I sit at the museum till | it is about our farm
questions: What do I use? | What could I call for that? | How do I go about it? | Is there something
  ready-made? | What would you take?
titles: relation | dataset | records | source | frame | data
remarks: Complexity is documented in the reference guide. | Annotations are enforced. | Deprecated aliases are
  unsupported. | Unicode is assumed. | Validation precedes execution. | Available in the stable namespace.
""",
}

# What says nothing about any attribute: names, what leads back to the matter, parts of small talk.
NEUTRAL = """
women: Agnes | Beth | Clara | Dora | Edith | Flora | Greta | Hanna | Ines | Judith | Karin | Lena
men: Adam | Boris | Conrad | Derek | Emil | Felix | Gavin | Hugo | Igor | Jasper | Klaus | Leo
lead: back to the matter: | one thing more: | I ought to mention this: | mind you, | and do not forget: | as I
  said, | the thing is, | more to the point, | I nearly forgot: | by the way,
time: that morning | around noon | in the meantime | on the Wednesday | a little later | as usual | towards
  the weekend | before breakfast | to my surprise | at half past four | between two showers | not long ago |
  all the while
person: my sister | the postman | our landlady | a retired teacher | the girl from number nine | the plumber |
  my brother-in-law | the man with the accordion | a tourist from Ghent | the vicar | the twins | our doctor |
  an old sailor | the choirmaster | the woman from the library | my godmother | a boy in a green coat | the
  gardener
deed: told a joke about a parrot | hunted for the left glove | peeled potatoes | read the obituaries aloud |
  talked about a cruise to Norway | fed the ducks | lost at chess | drew a horse | wrote three postcards |
  asked the way to the station | counted the passing buses | played the piano badly | knitted half a scarf |
  rang about the concert tickets | praised the apple cake | complained about the new timetable | whistled an
  old march | picked blackberries | fell asleep over a crossword | argued about the best route to the coast |
  borrowed our ladder | swapped stamps with the neighbours | cut out a recipe for dumplings | watched the
  sparrows | mended a kite | practised Spanish
place: in the kitchen | under the chestnut | at the bus stop | on the back stairs | across the road | by the
  canal | in the waiting room | behind the church | on the balcony | at the corner table | near the bandstand
  | in the attic
aside: which made us laugh | though nobody listened | and I hardly looked up | as people do around here | and
  that was that | while the radio played a waltz | and a dog trotted past | but I had other worries | so we
  put the coffee on | and the bells of Saint Anne rang
thought: holidays are never long enough | the trams used to be yellow | cats are cleverer than dogs | the new
  mayor means well | pears taste better than apples | Vienna is lovely in autumn | children grow up too
  quickly | nobody writes proper letters nowadays | the bridge will be painted blue | good shoes are worth
  their price | the cinema may close | a walk is the best medicine
"""
